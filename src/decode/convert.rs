//! Exact conversions of one JSON scalar: integers, floats, decimals, dates, timestamps.
//!
//! Uses nothing of the project. `None` means that the text has another form or that its value is out of range; nothing
//! is ever rounded or wrapped, but for the digits of a second below the microsecond, which are cut.

use std::str::FromStr;

use chrono::NaiveDate;

/// A day in microseconds.
const DAY: i64 = 86_400_000_000;

/// An integer of JSON's form. None: out of range.
#[inline]
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    if digits.len() > 18 {
        return parse(text);
    }
    let value = digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    Some(if negative { -value } else { value })
}

fn parse<T: FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A float of JSON's form, as near as a double comes. None: out of range.
#[inline]
pub(super) fn double(text: &[u8]) -> Option<f64> {
    parse(text).filter(|value: &f64| value.is_finite())
}

/// The same in single precision, rounded once.
pub(super) fn single(text: &[u8]) -> Option<f64> {
    parse(text).filter(|value: &f32| value.is_finite()).map(f64::from)
}

/// A number as the unscaled value of DECIMAL(precision, scale). None: it would have to be rounded, or has too many digits.
pub(super) fn decimal(text: &[u8], precision: u8, scale: i8) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).skip_while(|digit| *digit == b'0').collect();
    let zeros = digits.iter().rev().take_while(|digit| **digit == b'0').count();
    let digits = digits.get(..digits.len() - zeros).unwrap_or_default();
    if digits.is_empty() {
        return Some(0);
    }
    // An exponent beyond an i64 is as far out of range as one that fits.
    let exponent: i64 = exponent.parse().ok()?;
    let shift = exponent
        .checked_add(zeros as i64 + i64::from(scale))
        .and_then(|shift| shift.checked_sub(fraction.len() as i64))?;
    if shift < 0 || shift > i64::from(precision) || digits.len() as i64 + shift > i64::from(precision) {
        return None;
    }
    let value = digits.iter().fold(0_i128, |value, digit| value * 10 + i128::from(digit - b'0'));
    let value = value * 10_i128.pow(shift as u32);
    Some(if negative { -value } else { value })
}

/// `yyyy-MM-dd` in days since the epoch.
pub(super) fn date(text: &[u8]) -> Option<i32> {
    let (date, rest) = split_date(text)?;
    rest.is_empty().then_some(date)
}

/// `yyyy-MM-dd[( |T)HH:mm[:ss[.f…]][Z|±HH[[:]mm[[:]ss]]]]` in microseconds since the epoch; without an offset it is UTC.
pub(super) fn timestamp(text: &[u8]) -> Option<i64> {
    let (date, rest) = split_date(text)?;
    let midnight = i64::from(date) * DAY;
    let Some((b' ' | b'T', mut rest)) = rest.split_first() else {
        return rest.is_empty().then_some(midnight);
    };
    let hour = two_digits(&mut rest, 23)?;
    take(&mut rest, b':').then_some(())?;
    let minute = two_digits(&mut rest, 59)?;
    let mut micros = (hour * 3600 + minute * 60) * 1_000_000;
    if take(&mut rest, b':') {
        micros += two_digits(&mut rest, 59)? * 1_000_000;
        if take(&mut rest, b'.') {
            micros += fraction(&mut rest)?;
        }
    }
    Some(midnight + micros - offset(rest)? * 1_000_000)
}

/// Seconds since the epoch in microseconds.
pub(super) fn seconds(text: &[u8]) -> Option<i64> {
    integer(text)?.checked_mul(1_000_000)
}

fn split_date(text: &[u8]) -> Option<(i32, &[u8])> {
    let mut rest = text;
    let century = two_digits(&mut rest, 99)?;
    let year = century * 100 + two_digits(&mut rest, 99)?;
    take(&mut rest, b'-').then_some(())?;
    let month = two_digits(&mut rest, 12)?;
    take(&mut rest, b'-').then_some(())?;
    let day = two_digits(&mut rest, 31)?;
    let date = NaiveDate::from_ymd_opt(year as i32, month as u32, day as u32)?;
    Some((date.to_epoch_days(), rest))
}

fn two_digits(rest: &mut &[u8], most: i64) -> Option<i64> {
    let (digits, behind) = rest.split_first_chunk::<2>()?;
    let [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = *digits else { return None };
    let value = i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
    *rest = behind;
    (value <= most).then_some(value)
}

fn take(rest: &mut &[u8], byte: u8) -> bool {
    let Some(behind) = rest.strip_prefix(&[byte]) else { return false };
    *rest = behind;
    true
}

/// At least one digit of a second's fraction, in microseconds.
fn fraction(rest: &mut &[u8]) -> Option<i64> {
    let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    let six = digits.iter().chain([b'0'; 6].iter()).take(6);
    (length > 0).then(|| six.fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
}

/// The offset in seconds; all that is left must belong to it.
fn offset(mut rest: &[u8]) -> Option<i64> {
    let sign = match rest.split_first() {
        None => return Some(0),
        Some((b'Z', behind)) => return behind.is_empty().then_some(0),
        Some((b'+', behind)) => {
            rest = behind;
            1
        }
        Some((b'-', behind)) => {
            rest = behind;
            -1
        }
        Some(_) => return None,
    };
    let mut seconds = two_digits(&mut rest, 18)? * 3600;
    for unit in [60, 1] {
        let colon = take(&mut rest, b':');
        if !colon && rest.is_empty() {
            break;
        }
        seconds += two_digits(&mut rest, 59)? * unit;
    }
    (rest.is_empty() && seconds <= 18 * 3600).then_some(sign * seconds)
}

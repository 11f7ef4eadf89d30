//! Writes made-up posts, places and users in the shapes that the shipped project reads, as the Kafka Connect S3 sink
//! would have left them: `FOLDER/{pin,geo,user}/partition=0/sample.pin+0+0000000000.json`.
//!
//!     cargo run --example sample_data [FOLDER [POSTS [SEED]]]        (examples/data, 400, 100)
//!
//! Every text is put together from the word lists below; no person and no post is real. The output depends on the
//! arguments alone, on every machine. Uses the standard library only, nothing of the project.

use std::{env, error, fs, io, path::Path};

/// Rows of the tables that the posts are drawn from; each category is one range of row numbers.
const TABLE_ROWS: u64 = 11_001;
/// Records in one object, but for the last ones, which lie in an object each.
const RECORDS_PER_OBJECT: usize = 30;
const SINGLE_OBJECTS: usize = 10;
const SECONDS_PER_DAY: u64 = 86_400;
/// 2015-10-21, the first day that anybody joined, in days since 1970.
const FIRST_JOINED: u64 = 16_729;
/// 2017-10-21, the day after the last one joined and the first with a post.
const FIRST_POST: u64 = 17_460;
const DAYS_OF_POSTS: u64 = 1_824;

const CATEGORIES: [(&str, [&str; 6]); 13] = [
    ("art", ["watercolour", "sketch", "mural", "collage", "clay", "canvas"]),
    ("beauty", ["lip balm", "hair mask", "nail polish", "face oil", "braid", "soap"]),
    ("christmas", ["wreath", "stocking", "star", "gingerbread", "candle", "garland"]),
    ("diy-and-crafts", ["macramé", "paper lantern", "button box", "felt mouse", "bird house", "shelf"]),
    ("education", ["alphabet cards", "number line", "reading corner", "volcano model", "map quiz", "timetable"]),
    ("event-planning", ["seating plan", "table card", "balloon arch", "menu board", "tent", "guest book"]),
    ("finance", ["budget sheet", "savings jar", "envelope method", "ledger", "pension plan", "receipt folder"]),
    ("home-decor", ["reading nook", "lamp shade", "rug", "window seat", "gallery wall", "plant stand"]),
    ("mens-fashion", ["linen suit", "rain coat", "brogue", "scarf", "denim jacket", "pocket square"]),
    ("quotes", ["word of the day", "proverb", "short poem", "old saying", "motto", "letter"]),
    ("tattoos", ["fern", "compass", "swallow", "moon phase", "anchor", "tiny wave"]),
    ("travel", ["night train", "harbour walk", "packing list", "mountain hut", "ferry", "market"]),
    ("vehicles", ["camper van", "cargo bike", "tractor", "old tram", "kit car", "sailing boat"]),
];
const ADJECTIVES: [&str; 12] = [
    "simple",
    "cosy",
    "bright",
    "forgotten",
    "handmade",
    "weekend",
    "tiny",
    "perfect",
    "rustic",
    "\"easy\"",
    "slow",
    "blue",
];
const OPENINGS: [&str; 10] = [
    "How to make a",
    "Ideas for a",
    "Ein Entwurf für:",
    "Un petit guide :",
    "Наш способ:",
    "私の小さな",
    "My first",
    "10 × the",
    "✨ Loving this",
    "Why I kept my",
];
const SENTENCES: [&str; 10] = [
    "It takes an afternoon, two friends and a pot of tea.",
    "Nothing here is hard; the trick is to begin.",
    "Wir haben es für die Küche gemacht, und es hält noch immer.",
    "Une idée toute simple, à refaire chez soi.",
    "Всё получилось с первого раза.",
    "Keep the leftovers in a box marked \"later\".",
    "春になったらもう一度作ります。",
    "The pattern goes over/under, then back \\ forth.",
    "Save it for a rainy day 🌧️ or a long train ride.",
    "Ask at the corner shop for what is missing.",
];
const STUDIOS: [&str; 10] =
    ["Paper", "Meadow", "Harbour", "Copper", "Nordlicht", "Étoile", "Pebble", "𝓛𝓾𝓷𝓪", "Thimble", "Lantern"];
const KINDS_OF_STUDIO: [&str; 8] =
    ["& Thread", "Workshop", "Journal", "Diaries ", "Collective", "at Home", "  Letters", "Kitchen 🍋"];
const FIRST_NAMES: [&str; 16] = [
    "Ada", "Bram", "Cleo", "Dario", "Edda", "Falk", "Greta", "Hugo", "Ines", "Jory", "Kaia", "Lev", "Mira", "Nils",
    "Orla", "Pim",
];
const LAST_NAMES: [&str; 16] = [
    "Abendroth",
    "Birkwood",
    "Calder",
    "Dunmore",
    "Elverum",
    "Farrow",
    "Glasshill",
    "Hartnoll",
    "Ironside",
    "Jessop",
    "Kestrel",
    "Lindqvist",
    "Marlowe",
    "Northcott",
    "Oakes",
    "Pendry",
];
/// The early ones are drawn most often.
const COUNTRIES: [&str; 24] = [
    "Albania",
    "Algeria",
    "Afghanistan",
    "Aruba",
    "American Samoa",
    "Andorra",
    "Antarctica (the territory South of 60 deg S)",
    "Bulgaria",
    "Antigua and Barbuda",
    "Cote d'Ivoire",
    "Denmark",
    "Ecuador",
    "Fiji",
    "Ghana",
    "Holy See (Vatican City State)",
    "Iceland",
    "Jamaica",
    "Kenya",
    "Lao People's Democratic Republic",
    "Malta",
    "Nepal",
    "Svalbard & Jan Mayen Islands",
    "Uruguay",
    "Zambia",
];

/// SplitMix64: a small generator whose numbers are the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`. The slight bias of the remainder does not matter here.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// A number below `n`, small ones more often than large ones.
    fn early(&mut self, n: u64) -> u64 {
        let bound = 1 + self.below(n);
        self.below(bound)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Who posts: the name on the site, the follower count, and the account behind it.
struct Person {
    poster: String,
    followers: String,
    first: &'static str,
    last: &'static str,
    age: u64,
    joined: u64,
}

/// One event of the emulator: a record for each topic.
struct Event {
    records: [String; 3],
}

fn main() -> Result<(), Box<dyn error::Error>> {
    let mut arguments = env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "examples/data".to_owned());
    let posts = number(arguments.next(), "POSTS", 400)?;
    let seed = number(arguments.next(), "SEED", 100)?;
    if posts > TABLE_ROWS {
        return Err(format!("`POSTS` is {posts}, but there are {TABLE_ROWS} rows to draw from").into());
    }
    let events = events(posts as usize, seed);
    for (topic, name) in ["pin", "geo", "user"].into_iter().enumerate() {
        let records = events.iter().map(|event| event.records[topic].as_str()).collect();
        write_topic(Path::new(&folder), name, with_broken(name, records))?;
    }
    Ok(())
}

fn number(argument: Option<String>, name: &str, default: u64) -> Result<u64, String> {
    match argument {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| format!("`{name}` must be a whole number, not `{text}`")),
    }
}

/// The events in the order they were sent. The emulator was stopped early and started again, and every start sends the
/// same rows from the first one on, so the first rows come twice.
fn events(posts: usize, seed: u64) -> Vec<Event> {
    let mut random = Random(seed);
    let people = people(&mut random, posts);
    let rows = row_numbers(&mut random, posts);
    let first_run = rows.len() * 3 / 20;
    let event = |ind: &u64| event(*ind, seed, &people);
    rows[..first_run].iter().map(event).chain(rows.iter().map(event)).collect()
}

/// Different row numbers, in no order.
fn row_numbers(random: &mut Random, posts: usize) -> Vec<u64> {
    let mut rows: Vec<u64> = (0..TABLE_ROWS).collect();
    for at in 0..posts {
        let other = at as u64 + random.below(TABLE_ROWS - at as u64);
        rows.swap(at, other as usize);
    }
    rows.truncate(posts);
    rows
}

fn people(random: &mut Random, posts: usize) -> Vec<Person> {
    (0..posts * 2 / 3 + 2).map(|_| person(random)).collect()
}

/// The earlier somebody joined, the more followers there are, as in the course's tables.
fn person(random: &mut Random) -> Person {
    let (first, last) = (random.pick(&FIRST_NAMES), random.pick(&LAST_NAMES));
    let day = random.early(FIRST_POST - FIRST_JOINED);
    let mut poster = format!("{} {}", random.pick(&STUDIOS), random.pick(&KINDS_OF_STUDIO));
    if random.chance(60) {
        poster = format!("{poster} by {first}");
    }
    let followers = match random.below(FIRST_POST - FIRST_JOINED + day * 2) {
        0..60 => format!("{}M", 1 + random.early(15)),
        60..700 => format!("{}k", 1 + random.early(990)),
        _ => random.below(1000).to_string(),
    };
    let age = 20 + if random.chance(60) { random.early(16) } else { random.below(41) };
    let joined = (FIRST_JOINED + day) * SECONDS_PER_DAY + random.below(SECONDS_PER_DAY);
    Person { poster, followers, first, last, age, joined }
}

/// The records of one row. They depend on the row number and the seed only, so a row that is sent again is the same.
fn event(ind: u64, seed: u64, people: &[Person]) -> Event {
    let mut random = Random(seed ^ ind.wrapping_mul(0xD6E8_FEB8_6659_FD93));
    let broken = random.chance(2);
    // The first of the people stands for the account behind all error rows.
    let person = if broken { &people[0] } else { &people[1 + random.early(people.len() as u64 - 1) as usize] };
    // Half of the producers write the T form.
    let separator = if random.chance(50) { 'T' } else { ' ' };
    let pin = if broken { error_pin(ind, &mut random) } else { pin(ind, person, &mut random) };
    Event { records: [pin, geo(ind, separator, &mut random), user(ind, separator, person)] }
}

fn category(ind: u64) -> (&'static str, &'static [&'static str]) {
    let (name, things) = &CATEGORIES[(ind * CATEGORIES.len() as u64 / TABLE_ROWS) as usize];
    (name, things)
}

/// A post of which the collector found nothing but its category.
fn error_pin(ind: u64, random: &mut Random) -> String {
    let fields = [
        ("title", "No Title Data Available"),
        ("description", "No description available Story format"),
        ("poster_name", "User Info Error"),
        ("follower_count", "User Info Error"),
        ("tag_list", "N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"),
        ("is_image_or_video", "multi-video(story page format)"),
        ("image_src", "Image src error."),
    ];
    pin_json(ind, random, &fields)
}

fn pin(ind: u64, person: &Person, random: &mut Random) -> String {
    let (_, things) = category(ind);
    let thing = random.pick(things);
    let title = title(thing, random);
    let (kind, description, source) = match random.below(100) {
        0..2 => ("multi-video(story page format)", story(), "Image src error.".to_owned()),
        2..8 => ("multi-video(story page format)", story(), image(random, "originals", "png")),
        8..10 => ("image", "No description available".to_owned(), image(random, "originals", "jpg")),
        10..13 => ("video", description(thing, random), image(random, "videos/thumbnails/originals", "jpg")),
        _ => ("image", description(thing, random), image(random, "originals", "jpg")),
    };
    let tags = tags(things, random);
    let fields = [
        ("title", title.as_str()),
        ("description", &description),
        ("poster_name", &person.poster),
        ("follower_count", &person.followers),
        ("tag_list", &tags),
        ("is_image_or_video", kind),
        ("image_src", &source),
    ];
    pin_json(ind, random, &fields)
}

fn story() -> String {
    "No description available Story format".to_owned()
}

fn title(thing: &str, random: &mut Random) -> String {
    match random.below(100) {
        0 => String::new(),
        1 => "א".to_owned(),
        2 => format!("{} {thing}\n", random.pick(&OPENINGS)),
        3..15 => format!("{} {thing} {}", random.pick(&OPENINGS), random.pick(&["💡", "👩‍🎨", "❤️", "— 2️⃣"])),
        _ => format!("{} {} {thing}", random.pick(&OPENINGS), random.pick(&ADJECTIVES)),
    }
}

/// One to four sentences, cut at 200 characters as the collector did.
fn description(thing: &str, random: &mut Random) -> String {
    let mut text = format!("A {} {thing}.", random.pick(&ADJECTIVES));
    for _ in 0..=random.below(4) {
        text.push(' ');
        text.push_str(random.pick(&SENTENCES));
    }
    match text.char_indices().nth(199) {
        Some((end, _)) => format!("{}…\u{a0}", &text[..end]),
        None => text,
    }
}

fn tags(things: &[&str], random: &mut Random) -> String {
    if random.chance(2) {
        return "N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e".to_owned();
    }
    let tags: Vec<String> = (0..9).map(|_| format!("{} {}", random.pick(&ADJECTIVES), random.pick(things))).collect();
    tags.join(",").replace('"', "")
}

fn image(random: &mut Random, folder: &str, extension: &str) -> String {
    let name = format!("{:016x}{:016x}", random.next(), random.next());
    format!("https://img.example.com/{folder}/{}/{}/{}/{name}.{extension}", &name[..2], &name[2..4], &name[4..6])
}

/// A pin record with its keys in the order of the source table; `fields` are those from title to image_src.
fn pin_json(ind: u64, random: &mut Random, fields: &[(&str, &str)]) -> String {
    let (category, _) = category(ind);
    let mut json = format!("{{\"index\":{ind},\"unique_id\":\"{}\"", uuid(random));
    let mut downloaded = 1;
    for (name, value) in fields {
        push_text(&mut json, name, value);
        downloaded = if *value == "Image src error." { 0 } else { downloaded };
    }
    json.push_str(&format!(",\"downloaded\":{downloaded}"));
    push_text(&mut json, "save_location", &format!("Local save in /data/{category}"));
    push_text(&mut json, "category", category);
    json.push('}');
    json
}

fn geo(ind: u64, separator: char, random: &mut Random) -> String {
    let second = FIRST_POST * SECONDS_PER_DAY + random.below(DAYS_OF_POSTS * SECONDS_PER_DAY);
    let latitude = decimal(random.below(1_799_700), 899_850, 10_000);
    let longitude = decimal(random.below(359_800), 179_900, 1_000);
    let country = COUNTRIES[random.early(COUNTRIES.len() as u64) as usize];
    let mut json = format!("{{\"ind\":{ind}");
    push_text(&mut json, "timestamp", &date_time(second, separator));
    json.push_str(&format!(",\"latitude\":{latitude},\"longitude\":{longitude}"));
    push_text(&mut json, "country", country);
    json.push('}');
    json
}

fn user(ind: u64, separator: char, person: &Person) -> String {
    let mut json = format!("{{\"ind\":{ind}");
    push_text(&mut json, "first_name", person.first);
    push_text(&mut json, "last_name", person.last);
    json.push_str(&format!(",\"age\":{}", person.age));
    push_text(&mut json, "date_joined", &date_time(person.joined, separator));
    json.push('}');
    json
}

/// `(value - zero) / unit` in decimal digits, without a float on the way.
fn decimal(value: u64, zero: u64, unit: u64) -> String {
    let sign = if value < zero { "-" } else { "" };
    let size = value.abs_diff(zero).max(1);
    let digits = format!("{}.{:0width$}", size / unit, size % unit, width = unit.ilog10() as usize);
    let digits = digits.trim_end_matches('0');
    format!("{sign}{digits}{}", if digits.ends_with('.') { "0" } else { "" })
}

/// Seconds since 1970 as a date and a time of day.
fn date_time(second: u64, separator: char) -> String {
    let (year, month, day) = date(second / SECONDS_PER_DAY);
    let rest = second % SECONDS_PER_DAY;
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}{separator}{hour:02}:{minute:02}:{second:02}")
}

/// Days since 1970 as year, month and day of the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, left + 1)
}

/// A version 4 UUID.
fn uuid(random: &mut Random) -> String {
    let (high, low) = (random.next(), random.next());
    let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0x0fff);
    format!("{a:08x}-{b:04x}-4{c:03x}-{:04x}-{:012x}", low >> 48 & 0x3fff | 0x8000, low & 0xffff_ffff_ffff)
}

/// Appends `,"name":"value"`.
fn push_text(json: &mut String, name: &str, value: &str) {
    json.push_str(&format!(",\"{name}\":"));
    json.push_str(&quoted(value));
}

fn quoted(text: &str) -> String {
    let mut json = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            '\n' => json.push_str("\\n"),
            control if control < ' ' => json.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => json.push(other),
        }
    }
    json.push('"');
    json
}

/// The records of a topic with what producers get wrong among them: some in an envelope, which is taken off, one under
/// the other name for the row number, and a handful that are no rows and belong in the quarantine.
fn with_broken(topic: &str, records: Vec<&str>) -> Vec<String> {
    let mut sent = Vec::new();
    for (at, record) in records.iter().enumerate() {
        sent.push(match at % 97 {
            11 => format!("{{\"value\":{record}}}"),
            23 => format!("[{{\"value\":{record}}}]"),
            37 => quoted(&format!("{{\"records\":[{{\"value\":{record}}}]}}")),
            53 if topic == "pin" => record.replacen("{\"index\"", "{\"ind\"", 1),
            53 => record.replacen("{\"ind\"", "{\"index\"", 1),
            _ => (*record).to_owned(),
        });
    }
    for (at, record) in broken(topic).iter().enumerate() {
        sent.insert((at * 41 + 7).min(sent.len()), (*record).to_owned());
    }
    if let Some(record) = records.first() {
        // A producer that died in the middle of its last record.
        sent.push(record.chars().take(record.chars().count() / 2).collect());
    }
    sent
}

/// Records that are no row of the topic: not JSON, a wrong type, a value that cannot be converted, a foreign record.
fn broken(topic: &str) -> &'static [&'static str] {
    match topic {
        "pin" => &[
            r#"{index=4711, title=A slow tractor, category=vehicles}"#,
            r#"{"index":"forty-two","title":"A tiny fern","follower_count":"7k","category":"tattoos"}"#,
            r#"{"index":4712,"title":"My first ferry","follower_count":"quite a few","category":"travel"}"#,
            r#"{"index":4713,"lesson":"three","message":"is anybody there?"}"#,
            r#""""#,
        ],
        "geo" => &[
            r#"{"ind":4711,"timestamp":"2020-28-08 03:52:47","latitude":1.5,"longitude":2.5,"country":"Nepal"}"#,
            r#"{"ind":4712,"timestamp":"2020-08-28 03:52:47","latitude":"north","longitude":2.5,"country":"Fiji"}"#,
            r#"{"ind":4713,"first_name":"Mira","last_name":"Oakes","age":31,"date_joined":"2016-02-29 10:00:00"}"#,
            r#"{"ind":4714,"timestamp":"2020-08-28 03:52:47","latitude":1.5,"country":"Malta"}"#,
        ],
        _ => &[
            r#"{"ind":4711,"first_name":"Hugo","last_name":"Oakes","age":"forty","date_joined":"2016-02-29 10:00:00"}"#,
            r#"{"ind":4712,"first_name":"Ines","last_name":"Calder","age":44,"date_joined":"last spring"}"#,
            r#"{"example_field":"example_value"}"#,
            r#"ping"#,
        ],
    }
}

/// Writes the records of a topic as objects named by the offset of their first record.
fn write_topic(folder: &Path, topic: &str, records: Vec<String>) -> io::Result<()> {
    let folder = folder.join(topic).join("partition=0");
    fs::create_dir_all(&folder)?;
    remove_earlier(&folder)?;
    let in_lines = records.len().saturating_sub(SINGLE_OBJECTS);
    let mut offset = 0;
    while offset < records.len() {
        let end = if offset < in_lines { (offset + RECORDS_PER_OBJECT).min(in_lines) } else { offset + 1 };
        let mut text = String::new();
        for record in &records[offset..end] {
            text.push_str(record);
            text.push('\n');
        }
        fs::write(folder.join(format!("sample.{topic}+0+{offset:010}.json")), text)?;
        offset = end;
    }
    Ok(())
}

/// Removes the objects of an earlier call, which may have had more records or other offsets.
fn remove_earlier(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("sample.") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

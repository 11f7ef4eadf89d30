-- Who made each post, cleaned.
--
--   * first_name and last_name become one name, with a space between.
--   * age is an INT.
--   * date_joined is a TIMESTAMP, from `2015-10-24 11:23:51` and from `2015-10-24T11:23:51`.
--   * Blank texts become NULL.
--
-- What is not a person, or has an age or a date that is none, goes to clean_user_quarantine with its reason.
--
-- A constraint sees the finished row, where NULL is right for a value that was not given and wrong for one that cannot
-- be converted. So such a value becomes an impossible one (age -1, the year 1900), and the constraint sends the record
-- away.

CREATE OR REFRESH STREAMING TABLE clean_user (
  CONSTRAINT ind_given EXPECT (ind IS NOT NULL) ON VIOLATION QUARANTINE ROW,
  CONSTRAINT is_a_user EXPECT (user_name IS NOT NULL OR age IS NOT NULL OR date_joined IS NOT NULL)
    ON VIOLATION QUARANTINE ROW,
  CONSTRAINT age_is_a_number EXPECT (age IS NULL OR age >= 0) ON VIOLATION QUARANTINE ROW,
  CONSTRAINT date_joined_is_a_date EXPECT (date_joined IS NULL OR date_joined > TIMESTAMP '1900-01-01 00:00:00')
    ON VIOLATION QUARANTINE ROW
)
COMMENT 'people who posted, cleaned: one row per record received'
AS SELECT
  coalesce(ind, `index`) AS ind,
  nullif(btrim(concat_ws(' ', first_name, last_name), E' \t\r\n'), '') AS user_name,
  CASE WHEN age IS NOT NULL THEN coalesce(try_cast(age AS INT), CAST(-1 AS INT)) END AS age,
  CASE
    WHEN btrim(date_joined, E' \t\r\n') <> ''
    THEN coalesce(try_cast(btrim(date_joined, E' \t\r\n') AS TIMESTAMP), TIMESTAMP '1900-01-01 00:00:00')
  END AS date_joined
FROM STREAM user;

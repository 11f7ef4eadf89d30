-- The posts, cleaned.
--
--   * Blank texts and the placeholders of the source become NULL.
--   * follower_count is a number: `k` multiplies by 1,000 and `M` by 1,000,000.
--   * save_location keeps the path only.
--   * index becomes ind.
--
-- What is not a post, or has a follower_count that is not a number, goes to clean_pin_quarantine with its reason.
--
-- Two ways of saying it that recur below:
--   * `x >= '!'` is the quick test for "does not begin with white space"; only the few others are trimmed to see
--     whether anything is left.
--   * A constraint sees the finished row, where NULL is right for a blank and wrong for a text that is not a number.
--     So such a text becomes -1, which no account has, and the constraint sends the record away.

CREATE OR REFRESH STREAMING TABLE clean_pin (
  CONSTRAINT ind_given EXPECT (ind IS NOT NULL) ON VIOLATION QUARANTINE ROW,
  CONSTRAINT is_a_pin EXPECT (
    unique_id IS NOT NULL OR title IS NOT NULL OR description IS NOT NULL OR follower_count IS NOT NULL
    OR poster_name IS NOT NULL OR tag_list IS NOT NULL OR is_image_or_video IS NOT NULL OR image_src IS NOT NULL
    OR save_location IS NOT NULL OR category IS NOT NULL
  ) ON VIOLATION QUARANTINE ROW,
  CONSTRAINT follower_count_is_a_number EXPECT (follower_count IS NULL OR follower_count >= 0)
    ON VIOLATION QUARANTINE ROW
)
COMMENT 'posts, cleaned: one row per record received'
AS SELECT
  coalesce(ind, `index`) AS ind,
  CASE WHEN unique_id >= '!' OR btrim(unique_id, E' \t\r\n') <> '' THEN unique_id END AS unique_id,
  CASE
    WHEN (title >= '!' OR btrim(title, E' \t\r\n') <> '')
      AND title <> 'No Title Data Available'
    THEN title
  END AS title,
  CASE
    WHEN (description >= '!' OR btrim(description, E' \t\r\n') <> '')
      AND description <> 'No description available'
      AND description <> 'No description available Story format'
    THEN description
  END AS description,
  CAST(CASE
    WHEN btrim(follower_count, E' \t\r\n') IN ('', 'User Info Error') THEN NULL
    -- '136k' is read as '136e3': a cast does the multiplying, and anything but one number before the letter fails.
    WHEN follower_count LIKE '%k'
      THEN coalesce(try_cast(try_cast(replace(follower_count, 'k', 'e3') AS DOUBLE) AS INT), -1)
    WHEN follower_count LIKE '%M'
      THEN coalesce(try_cast(try_cast(replace(follower_count, 'M', 'e6') AS DOUBLE) AS INT), -1)
    WHEN follower_count IS NOT NULL THEN coalesce(try_cast(follower_count AS INT), -1)
  END AS INT) AS follower_count,
  CASE
    WHEN (poster_name >= '!' OR btrim(poster_name, E' \t\r\n') <> '')
      AND poster_name <> 'User Info Error'
    THEN poster_name
  END AS poster_name,
  CASE
    WHEN (tag_list >= '!' OR btrim(tag_list, E' \t\r\n') <> '')
      AND tag_list <> 'N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e'
    THEN tag_list
  END AS tag_list,
  CASE
    WHEN is_image_or_video >= '!' OR btrim(is_image_or_video, E' \t\r\n') <> '' THEN is_image_or_video
  END AS is_image_or_video,
  CASE
    WHEN (image_src >= '!' OR btrim(image_src, E' \t\r\n') <> '')
      AND image_src <> 'Image src error.'
    THEN image_src
  END AS image_src,
  CASE
    WHEN save_location >= '!' OR btrim(save_location, E' \t\r\n') <> ''
    THEN nullif(replace(save_location, 'Local save in ', ''), '')
  END AS save_location,
  CASE WHEN category >= '!' OR btrim(category, E' \t\r\n') <> '' THEN category END AS category
FROM STREAM pin;

-- Who has the most followers among those who posted from each country? Tied users all show.
-- Each post counts once: see ../views.sql.

CREATE OR REFRESH MATERIALIZED VIEW most_followed_user_by_country
COMMENT 'the user with most followers of each country'
AS WITH posters AS (
  SELECT places.country, pins.poster_name, max(pins.follower_count) AS follower_count
  FROM pins
  JOIN places ON places.ind = pins.ind
  WHERE places.country IS NOT NULL AND pins.poster_name IS NOT NULL AND pins.follower_count IS NOT NULL
  GROUP BY places.country, pins.poster_name
)
SELECT country, poster_name, follower_count
FROM posters
QUALIFY rank() OVER (PARTITION BY country ORDER BY follower_count DESC) = 1;

-- From which country did the user with the most followers of all post? One row, or the tied countries.
-- Each post counts once: see ../views.sql.

CREATE OR REFRESH MATERIALIZED VIEW most_followed_country
COMMENT 'the country of the user with most followers'
AS WITH countries AS (
  SELECT places.country, max(pins.follower_count) AS follower_count
  FROM pins
  JOIN places ON places.ind = pins.ind
  WHERE places.country IS NOT NULL AND pins.poster_name IS NOT NULL AND pins.follower_count IS NOT NULL
  GROUP BY places.country
)
SELECT country, follower_count
FROM countries
QUALIFY rank() OVER (ORDER BY follower_count DESC) = 1;

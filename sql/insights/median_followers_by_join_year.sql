-- What is the median follower count of the users who joined in each year from 2015 to 2020, over their posts?
-- The lower of the two middle values where there is no single one.
-- Each post counts once: see ../views.sql.

CREATE OR REFRESH MATERIALIZED VIEW median_followers_by_join_year
COMMENT 'median follower count by year of joining, 2015 to 2020'
AS WITH grouped AS (
  SELECT
    pins.follower_count,
    date_part('year', users.date_joined) AS post_year
  FROM pins
  JOIN users ON users.ind = pins.ind
),
ranked AS (
  SELECT
    post_year,
    follower_count,
    row_number() OVER (PARTITION BY post_year ORDER BY follower_count) AS place,
    count(*) OVER (PARTITION BY post_year) AS posts
  FROM grouped
  WHERE post_year BETWEEN 2015 AND 2020 AND follower_count IS NOT NULL
)
SELECT post_year, follower_count AS median_follower_count
FROM ranked
WHERE place = (posts + 1) / 2;

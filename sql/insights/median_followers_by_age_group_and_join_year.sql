-- What is the median follower count of each age group and year of joining, 2015 to 2020, over the posts?
-- The lower of the two middle values where there is no single one.
-- Each post counts once: see ../views.sql.

CREATE OR REFRESH MATERIALIZED VIEW median_followers_by_age_group_and_join_year
COMMENT 'median follower count by age group and year of joining, 2015 to 2020'
AS WITH grouped AS (
  SELECT
    pins.follower_count,
    CASE
      WHEN users.age BETWEEN 18 AND 24 THEN '18-24'
      WHEN users.age BETWEEN 25 AND 35 THEN '25-35'
      WHEN users.age BETWEEN 36 AND 50 THEN '36-50'
      WHEN users.age > 50 THEN '+50'
    END AS age_group,
    date_part('year', users.date_joined) AS post_year
  FROM pins
  JOIN users ON users.ind = pins.ind
),
ranked AS (
  SELECT
    age_group,
    post_year,
    follower_count,
    row_number() OVER (PARTITION BY age_group, post_year ORDER BY follower_count) AS place,
    count(*) OVER (PARTITION BY age_group, post_year) AS posts
  FROM grouped
  WHERE age_group IS NOT NULL AND post_year BETWEEN 2015 AND 2020 AND follower_count IS NOT NULL
)
SELECT age_group, post_year, follower_count AS median_follower_count
FROM ranked
WHERE place = (posts + 1) / 2;

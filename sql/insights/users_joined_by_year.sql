-- How many users joined in each year from 2015 to 2020, and how many posts are theirs?
-- A user is a name and a joining date: one user has many posts. A post without a name counts as a post only.
-- Each post counts once: see ../views.sql.

CREATE OR REFRESH MATERIALIZED VIEW users_joined_by_year
COMMENT 'users and their posts by year of joining, 2015 to 2020'
AS WITH people AS (
  SELECT user_name, date_joined, count(*) AS posts
  FROM users
  WHERE date_part('year', date_joined) BETWEEN 2015 AND 2020
  GROUP BY user_name, date_joined
)
SELECT
  date_part('year', date_joined) AS post_year,
  count(user_name) AS number_users_joined,
  sum(posts) AS number_posts
FROM people
GROUP BY date_part('year', date_joined);

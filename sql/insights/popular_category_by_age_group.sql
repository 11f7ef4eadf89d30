-- Which category do people of each age group post to most? Tied categories all show.
-- Each post counts once: see ../views.sql.

CREATE OR REFRESH MATERIALIZED VIEW popular_category_by_age_group
COMMENT 'the most posted category of each age group'
AS WITH grouped AS (
  SELECT
    pins.category,
    CASE
      WHEN users.age BETWEEN 18 AND 24 THEN '18-24'
      WHEN users.age BETWEEN 25 AND 35 THEN '25-35'
      WHEN users.age BETWEEN 36 AND 50 THEN '36-50'
      WHEN users.age > 50 THEN '+50'
    END AS age_group
  FROM pins
  JOIN users ON users.ind = pins.ind
),
counted AS (
  SELECT age_group, category, count(*) AS category_count
  FROM grouped
  WHERE age_group IS NOT NULL AND category IS NOT NULL
  GROUP BY age_group, category
)
SELECT age_group, category, category_count
FROM counted
QUALIFY rank() OVER (PARTITION BY age_group ORDER BY category_count DESC) = 1;

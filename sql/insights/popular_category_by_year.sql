-- Which category had the most posts in each year from 2018 to 2022? Tied categories all show.
-- Each post counts once: see ../views.sql.

CREATE OR REFRESH MATERIALIZED VIEW popular_category_by_year
COMMENT 'the most posted category of each year, 2018 to 2022'
AS WITH counted AS (
  SELECT date_part('year', places.`timestamp`) AS post_year, pins.category, count(*) AS category_count
  FROM pins
  JOIN places ON places.ind = pins.ind
  WHERE date_part('year', places.`timestamp`) BETWEEN 2018 AND 2022 AND pins.category IS NOT NULL
  GROUP BY date_part('year', places.`timestamp`), pins.category
)
SELECT post_year, category, category_count
FROM counted
QUALIFY rank() OVER (PARTITION BY post_year ORDER BY category_count DESC) = 1;

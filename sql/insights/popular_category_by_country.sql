-- Which category do people post to most in each country? Tied categories all show.
-- Each post counts once: see ../views.sql.

CREATE OR REFRESH MATERIALIZED VIEW popular_category_by_country
COMMENT 'the most posted category of each country'
AS WITH counted AS (
  SELECT places.country, pins.category, count(*) AS category_count
  FROM pins
  JOIN places ON places.ind = pins.ind
  WHERE places.country IS NOT NULL AND pins.category IS NOT NULL
  GROUP BY places.country, pins.category
)
SELECT country, category, category_count
FROM counted
QUALIFY rank() OVER (PARTITION BY country ORDER BY category_count DESC) = 1;

-- How many posts did each category have in each year from 2018 to 2022?
-- Each post counts once: see ../views.sql.

CREATE OR REFRESH MATERIALIZED VIEW category_count_by_year
COMMENT 'posts of each category in each year, 2018 to 2022'
AS SELECT date_part('year', places.`timestamp`) AS post_year, pins.category, count(*) AS category_count
FROM pins
JOIN places ON places.ind = pins.ind
WHERE date_part('year', places.`timestamp`) BETWEEN 2018 AND 2022 AND pins.category IS NOT NULL
GROUP BY date_part('year', places.`timestamp`), pins.category;

-- The clean tables keep every record that came, repeats too. The insights read these views, where each `ind` is there once:
-- of rows that differ, the first by the columns listed.

CREATE VIEW pins AS
  SELECT ind, category, poster_name, follower_count
  FROM clean_pin
  QUALIFY row_number() OVER (PARTITION BY ind ORDER BY category, poster_name, follower_count) = 1;

CREATE VIEW places AS
  SELECT ind, country, `timestamp`
  FROM clean_geo
  QUALIFY row_number() OVER (PARTITION BY ind ORDER BY country, `timestamp`) = 1;

CREATE VIEW users AS
  SELECT ind, user_name, age, date_joined
  FROM clean_user
  QUALIFY row_number() OVER (PARTITION BY ind ORDER BY user_name, age, date_joined) = 1;

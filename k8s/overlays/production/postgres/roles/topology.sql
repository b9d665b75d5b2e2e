-- The roles of the topology database; run in it by a superuser, as often as you like. They have no passwords yet:
-- \password likering_migration, \password likering_app.
--
-- likering_migration owns the tables: `likering cluster init` and `likering cluster upgrade` connect as it.
-- likering_app reads and writes rows, and changes nothing else: routers, nodes, replicas and `likering cluster assign`.
DO $$
DECLARE
    wanted text;
    kept text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['likering_migration', 'likering_app'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', wanted);
        END IF;
    END LOOP;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO likering_migration, likering_app', current_database());
    CREATE SCHEMA IF NOT EXISTS likering;
    ALTER SCHEMA likering OWNER TO likering_migration;
    FOR kept IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'likering' LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO likering_migration', kept);
    END LOOP;
END
$$;
GRANT USAGE ON SCHEMA likering TO likering_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA likering TO likering_app;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA likering TO likering_app;
ALTER DEFAULT PRIVILEGES FOR ROLE likering_migration IN SCHEMA likering
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO likering_app;
ALTER DEFAULT PRIVILEGES FOR ROLE likering_migration IN SCHEMA likering
    GRANT USAGE, SELECT ON SEQUENCES TO likering_app;

SET search_path TO pg_catalog;
WITH own AS (
  SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
  WHERE "left"(nspname::text, 3) <> 'pg_' AND nspname NOT IN ('information_schema', 'ostrakon')),
rel AS (
  SELECT c.*, n.nspname::text || '.' || c.relname AS full_name FROM pg_class c JOIN own n ON n.oid = c.relnamespace
  WHERE c.relpersistence <> 't')
SELECT kind, name, md5(definition) FROM (
  SELECT 'schema', nspname::text, concat_ws('|', pg_get_userbyid(nspowner),
    (SELECT string_agg(x::text, ',' ORDER BY x::text) FROM unnest(nspacl) x)) FROM own
  UNION ALL
  SELECT CASE relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
      WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE relkind::text END,
    full_name, concat_ws('|', relkind, relpersistence, pg_get_userbyid(relowner), array_to_string(reloptions, ','),
      relrowsecurity, relforcerowsecurity, relreplident, pg_get_expr(relpartbound, oid),
      CASE WHEN relkind = 'p' THEN pg_get_partkeydef(oid) END, CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(oid) END,
      (SELECT string_agg(x::text, ',' ORDER BY x::text) FROM unnest(relacl) x), obj_description(oid, 'pg_class'))
    FROM rel WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
  UNION ALL
  SELECT 'column', r.full_name || '.' || a.attname, concat_ws('|',
      row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod), a.attnotnull,
      a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid), l.collname, a.attstorage,
      (SELECT string_agg(x::text, ',' ORDER BY x::text) FROM unnest(a.attacl) x), col_description(a.attrelid, a.attnum))
    FROM rel r JOIN pg_attribute a ON a.attrelid = r.oid LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
    LEFT JOIN pg_collation l ON l.oid = a.attcollation
    WHERE a.attnum > 0 AND NOT a.attisdropped AND r.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
  UNION ALL
  SELECT 'constraint', r.full_name || '.' || o.conname, concat_ws('|', pg_get_constraintdef(o.oid), o.convalidated,
      obj_description(o.oid, 'pg_constraint'))
    FROM rel r JOIN pg_constraint o ON o.conrelid = r.oid WHERE o.contype <> 'n'
  UNION ALL
  SELECT 'index', x.full_name, concat_ws('|', pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready, i.indisreplident,
      obj_description(i.indexrelid, 'pg_class'))
    FROM rel x JOIN pg_index i ON i.indexrelid = x.oid
  UNION ALL
  SELECT 'sequence', r.full_name, concat_ws('|', format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmax, s.seqmin,
      s.seqcache, s.seqcycle, pg_get_userbyid(r.relowner),
      (SELECT string_agg(x::text, ',' ORDER BY x::text) FROM unnest(r.relacl) x))
    FROM rel r JOIN pg_sequence s ON s.seqrelid = r.oid
  UNION ALL
  SELECT 'trigger', r.full_name || '.' || t.tgname, concat_ws('|', pg_get_triggerdef(t.oid), t.tgenabled)
    FROM rel r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal
  UNION ALL
  SELECT 'rule', r.full_name || '.' || w.rulename, concat_ws('|', pg_get_ruledef(w.oid), w.ev_enabled)
    FROM rel r JOIN pg_rewrite w ON w.ev_class = r.oid WHERE w.rulename <> '_RETURN'
  UNION ALL
  SELECT 'policy', r.full_name || '.' || p.polname, concat_ws('|', p.polcmd, p.polpermissive,
      (SELECT string_agg(CASE x WHEN 0 THEN 'public' ELSE pg_get_userbyid(x) END, ',' ORDER BY pg_get_userbyid(x))
       FROM unnest(p.polroles) x), pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
    FROM rel r JOIN pg_policy p ON p.polrelid = r.oid
  UNION ALL
  SELECT 'function', n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
    concat_ws('|', p.prokind, CASE WHEN p.prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) END,
      pg_get_userbyid(p.proowner), (SELECT string_agg(x::text, ',' ORDER BY x::text) FROM unnest(p.proacl) x))
    FROM pg_proc p JOIN own n ON n.oid = p.pronamespace
  UNION ALL
  SELECT 'type', n.nspname || '.' || t.typname, concat_ws('|', t.typtype, pg_get_userbyid(t.typowner),
      CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END, t.typnotnull, t.typdefault,
      (SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
      (SELECT string_agg(o.conname || pg_get_constraintdef(o.oid), ',' ORDER BY o.conname)
       FROM pg_constraint o WHERE o.contypid = t.oid))
    FROM pg_type t JOIN own n ON n.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r')
  UNION ALL
  SELECT 'extension', extname::text, extversion FROM pg_extension
  UNION ALL
  SELECT 'role', rolname::text, concat_ws('|', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,
      rolbypassrls, rolconnlimit, array_to_string(rolconfig, ','),
      (SELECT string_agg(g.rolname::text, ',' ORDER BY g.rolname) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
       WHERE m.member = r.oid))
    FROM pg_roles r WHERE "left"(rolname::text, 3) <> 'pg_'
) object (kind, name, definition)

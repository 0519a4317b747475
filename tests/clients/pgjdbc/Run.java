import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.PGStatement;
import org.postgresql.copy.CopyManager;
import org.postgresql.util.PSQLException;

/** pgjdbc: SQL by hand over JDBC, and what this driver does its own way: server-side statements from the n-th use, fetch sizes, rewritten batches, simple mode. */
public final class Run {
    private static final Steps STEPS = new Steps();
    private static final String URL = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/app?user=app";

    private interface Work<T> {
        T run(Connection connection) throws Exception;
    }

    private static Connection connect(String options) throws SQLException {
        return DriverManager.getConnection(URL + options);
    }

    /** Runs work on a connection of its own. */
    private static <T> T connected(String options, Work<T> work) throws Exception {
        try (Connection connection = connect(options)) {
            return work.run(connection);
        }
    }

    /** Runs work in a transaction on a connection of its own; closing without commit rolls back. */
    private static <T> T transaction(String options, Work<T> work) throws Exception {
        return connected(options, connection -> {
            connection.setAutoCommit(false);
            T result = work.run(connection);
            connection.commit();
            return result;
        });
    }

    private static String rows(Connection connection, String text, Object... values) throws SQLException {
        try (PreparedStatement statement = prepare(connection, text, values)) {
            return Steps.show(statement.executeQuery());
        }
    }

    private static int write(Connection connection, String text, Object... values) throws SQLException {
        try (PreparedStatement statement = prepare(connection, text, values)) {
            return statement.executeUpdate();
        }
    }

    private static PreparedStatement prepare(Connection connection, String text, Object... values) throws SQLException {
        PreparedStatement statement = connection.prepareStatement(text);
        for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
        return statement;
    }

    private static long tenant(int number) {
        return STEPS.saved.get("t" + number);
    }

    private static long insert(Connection connection, String text, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(text, new String[] {"id"})) {
            for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
            statement.executeUpdate();
            ResultSet keys = statement.getGeneratedKeys();
            keys.next();
            return keys.getLong(1);
        }
    }

    private static String graph(Connection connection) throws Exception {
        write(connection, "INSERT INTO countries VALUES ('de', 'Germany'), ('fr', 'France'), ('us', 'United States')");
        connection.setAutoCommit(false);
        for (int t = 1; t <= 4; t++) {
            long tenant = insert(connection, "INSERT INTO tenants (name) VALUES (?)", "t" + t);
            STEPS.saved.put("t" + t, tenant);
            for (int u = 1; u <= 3; u++) {
                long user = insert(connection, "INSERT INTO users (tenant_id, email, name, country) VALUES (?, ?, ?, ?)",
                        tenant, "u" + u + "@t" + t, "user " + u, List.of("de", "fr", "us").get(u - 1));
                for (int o = 1; o <= 2; o++) order(connection, tenant, user, BigDecimal.valueOf(1000 * t + 100 * u + 25 * o, 2));
            }
            connection.commit();
        }
        connection.setAutoCommit(true);
        List<String> counts = new ArrayList<>();
        for (String table : List.of("tenants", "users", "orders", "order_items", "order_notes")) {
            counts.add(table + " " + rows(connection, "SELECT count(*) FROM " + table));
        }
        return String.join(" ", counts) + "; " + rows(connection,
                "SELECT u.name, o.amount FROM users u JOIN orders o ON o.user_id = u.id AND o.tenant_id = u.tenant_id"
                        + " WHERE u.tenant_id = ? ORDER BY u.name, o.amount", tenant(1));
    }

    private static void order(Connection connection, long tenant, long user, BigDecimal amount) throws SQLException {
        long order = insert(connection, "INSERT INTO orders (tenant_id, user_id, amount) VALUES (?, ?, ?)", tenant, user, amount);
        try (PreparedStatement items = connection.prepareStatement("INSERT INTO order_items (tenant_id, order_id, product, quantity) VALUES (?, ?, ?, ?)")) {
            for (String product : List.of("pen", "ink")) {
                items.setLong(1, tenant);
                items.setLong(2, order);
                items.setString(3, product);
                items.setInt(4, 1);
                items.addBatch();
            }
            items.executeBatch();
        }
        write(connection, "INSERT INTO order_notes (order_id, text) VALUES (?, ?)", order, "note");
    }

    /** A batch of inserts gives back the generated keys; rewritten it is one INSERT of many rows. */
    private static String bulkInsert(Connection connection, String prefix) throws Exception {
        List<String> wanted = new ArrayList<>();
        List<String> read = new ArrayList<>();
        try (PreparedStatement statement = connection.prepareStatement(
                "INSERT INTO users (tenant_id, email, name) VALUES (?, ?, 'bulk')", Statement.RETURN_GENERATED_KEYS)) {
            for (int n = 0; n < 20; n++) {
                wanted.add(String.format("%s%02d", prefix, n));
                statement.setLong(1, tenant(1));
                statement.setString(2, wanted.get(n));
                statement.addBatch();
            }
            statement.executeBatch();
            ResultSet keys = statement.getGeneratedKeys();
            while (keys.next()) {
                read.add(rows(connection, "SELECT email FROM users WHERE tenant_id = ? AND id = ?", tenant(1), keys.getLong("id")));
            }
        }
        return (read.equals(wanted) ? "order kept: " : "order lost: ") + String.join(" ", read);
    }

    private static String uuid(Connection connection) throws Exception {
        UUID id = UUID.nameUUIDFromBytes(new byte[] {1});
        write(connection, "INSERT INTO documents (tenant_id, id, title) VALUES (?, ?, 'charter')", tenant(1), id);
        return rows(connection, "SELECT title, id FROM documents WHERE tenant_id = ? AND id = ?", tenant(1), id);
    }

    private static String children(Connection connection, boolean oneQuery) throws Exception {
        List<String> lines = new ArrayList<>();
        List<Long> ids = new ArrayList<>();
        try (PreparedStatement users = prepare(connection, "SELECT id FROM users WHERE tenant_id = ? AND email LIKE 'u%' ORDER BY email", tenant(1))) {
            ResultSet found = users.executeQuery();
            while (found.next()) ids.add(found.getLong(1));
        }
        if (oneQuery) {
            Array array = connection.createArrayOf("bigint", ids.toArray());
            return rows(connection, "SELECT amount FROM orders WHERE tenant_id = ? AND user_id = ANY (?) ORDER BY amount", tenant(1), array);
        }
        for (long id : ids) lines.add(rows(connection, "SELECT amount FROM orders WHERE tenant_id = ? AND user_id = ? ORDER BY amount", tenant(1), id));
        return String.join(" / ", lines);
    }

    private static void user(Connection connection, int tenant, String email) throws SQLException {
        write(connection, "INSERT INTO users (tenant_id, email, name) VALUES (?, ?, ?)", tenant(tenant), email, email);
    }

    private static String emails(Connection connection, String like) throws SQLException {
        return rows(connection, "SELECT email FROM users WHERE tenant_id = ? AND email LIKE ? ORDER BY email", tenant(4), like);
    }

    private static String savepoint(Connection connection) throws Exception {
        user(connection, 4, "s1");
        Savepoint before = connection.setSavepoint("before duplicate");
        String caught = "nothing";
        try {
            user(connection, 4, "s1");
        } catch (PSQLException error) {
            if (error.getSQLState().equals("0A000")) throw error;
            caught = error.getSQLState() + " " + error.getServerErrorMessage().getConstraint();
        }
        connection.rollback(before);
        user(connection, 4, "s2");
        return caught + ": " + emails(connection, "s%");
    }

    private static String nested(Connection connection) throws Exception {
        user(connection, 4, "n1");
        Savepoint outer = connection.setSavepoint();
        user(connection, 4, "n2");
        Savepoint inner = connection.setSavepoint();
        user(connection, 4, "n3");
        connection.releaseSavepoint(inner);
        connection.rollback(outer);
        user(connection, 4, "n4");
        return emails(connection, "n%");
    }

    /** With `autosave` the driver sets a savepoint before each statement by itself. */
    private static String autosave(Connection connection) throws Exception {
        user(connection, 4, "a1");
        String caught = "nothing";
        try {
            user(connection, 4, "a1");
        } catch (SQLException error) {
            caught = error.getSQLState();
        }
        user(connection, 4, "a2");
        return caught + ": " + emails(connection, "a%");
    }

    private static String optimistic(Connection connection) throws Exception {
        String text = "UPDATE users SET name = 'x', version = version + 1 WHERE tenant_id = ? AND email = 'u1@t4' AND version = ?";
        List<String> told = new ArrayList<>();
        for (int i = 0; i < 2; i++) told.add(write(connection, text, tenant(4), 1) == 1 ? "updated" : "stale");
        return String.join(" ", told);
    }

    private static String skipLocked(Connection one) throws Exception {
        String text = "SELECT amount FROM orders WHERE tenant_id = ? ORDER BY amount LIMIT 2 FOR UPDATE SKIP LOCKED";
        String first = rows(one, text, tenant(2));
        return first + " / " + transaction("", two -> rows(two, text, tenant(2)));
    }

    private static String cursor(Connection connection, String where, int size) throws Exception {
        connection.setAutoCommit(false);
        try (PreparedStatement statement = connection.prepareStatement("SELECT amount FROM orders " + where + " ORDER BY amount, id")) {
            statement.setFetchSize(size);
            if (!where.isEmpty()) statement.setLong(1, tenant(1));
            ResultSet rows = statement.executeQuery();
            int count = 0;
            BigDecimal sum = BigDecimal.ZERO;
            while (rows.next()) {
                count++;
                sum = sum.add(rows.getBigDecimal(1));
            }
            connection.commit();
            return count + " rows " + sum;
        }
    }

    /** Two portals of one connection are read by turns. */
    private static String twoCursors(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        try (Statement one = connection.createStatement(); Statement two = connection.createStatement()) {
            one.setFetchSize(3);
            two.setFetchSize(2);
            ResultSet left = one.executeQuery("SELECT n FROM generate_series(1, 20) AS n");
            ResultSet right = two.executeQuery("SELECT n * 100 FROM generate_series(1, 20) AS n");
            long sum = 0;
            while (left.next() && right.next()) sum += left.getLong(1) + right.getLong(1);
            connection.rollback();
            return String.valueOf(sum);
        }
    }

    private static String serializable() throws Exception {
        String failure = "no failure";
        try (Connection one = connect(""); Connection two = connect("")) {
            for (Connection each : List.of(one, two)) {
                each.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
                each.setAutoCommit(false);
                rows(each, "SELECT count(*) FROM users WHERE tenant_id = ? AND country = 'de'", tenant(3));
            }
            try {
                write(one, "UPDATE users SET country = 'us' WHERE tenant_id = ? AND email = 'u1@t3'", tenant(3));
                one.commit();
                write(two, "UPDATE users SET country = 'us' WHERE tenant_id = ? AND email = 'u2@t3'", tenant(3));
                two.commit();
            } catch (PSQLException error) {
                if (error.getSQLState().equals("0A000")) throw error;
                failure = error.getClass().getSimpleName() + " " + error.getSQLState();
                two.rollback();
            }
            write(two, "UPDATE users SET country = 'us' WHERE tenant_id = ? AND email = 'u2@t3'", tenant(3));
            two.commit();
        }
        return failure + ", retried";
    }

    private static String reflection(Connection connection) throws Exception {
        DatabaseMetaData data = connection.getMetaData();
        List<String> told = new ArrayList<>();
        for (String table : List.of("users", "orders")) {
            told.add(columns(data.getColumns(null, "public", table, "%"), "COLUMN_NAME", "TYPE_NAME", "IS_NULLABLE", "IS_AUTOINCREMENT"));
            told.add(columns(data.getPrimaryKeys(null, "public", table), "COLUMN_NAME"));
            told.add(columns(data.getIndexInfo(null, "public", table, false, true), "INDEX_NAME", "NON_UNIQUE", "COLUMN_NAME"));
            told.add(columns(data.getImportedKeys(null, "public", table), "FKCOLUMN_NAME", "PKTABLE_NAME", "DELETE_RULE"));
        }
        return String.join("; ", told);
    }

    private static String columns(ResultSet rows, String... names) throws SQLException {
        List<String> lines = new ArrayList<>();
        while (rows.next()) {
            List<String> line = new ArrayList<>();
            for (String name : names) line.add(rows.getString(name));
            lines.add(String.join(" ", line));
        }
        return String.join(", ", lines);
    }

    private static String migrateFails(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        String failure = "no failure";
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TABLE half_done (id int PRIMARY KEY)");
            statement.execute("ALTER TABLE no_such_table ADD COLUMN x int");
        } catch (PSQLException error) {
            if (error.getSQLState().equals("0A000")) throw error;
            failure = error.getClass().getSimpleName() + " " + error.getSQLState();
        }
        connection.rollback();
        return failure + ", left " + rows(connection, "SELECT count(*) FROM pg_tables WHERE tablename = 'half_done'");
    }

    private static String reconnect() throws Exception {
        String failure = "no failure";
        try (Connection victim = connect(""); Connection other = connect("")) {
            victim.setAutoCommit(false);
            int pid = Integer.parseInt(rows(victim, "SELECT pg_backend_pid()"));
            rows(other, "SELECT pg_terminate_backend(?)", pid);
            try {
                rows(victim, "SELECT pg_sleep(1)");
            } catch (PSQLException error) {
                failure = error.getSQLState() + " closed " + victim.isClosed();
            }
        }
        return failure + ", then " + connected("", again -> rows(again, "SELECT 2"));
    }

    private static String eightTenants() throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(8);
        List<Future<int[]>> results = new ArrayList<>();
        for (int n = 0; n < 8; n++) {
            int number = n;
            results.add(threads.submit(() -> connected("&ApplicationName=worker" + number + "&prepareThreshold=1", own -> worker(own, number))));
        }
        int[] total = new int[2];
        try {
            for (Future<int[]> result : results) {
                for (int i = 0; i < 2; i++) total[i] += result.get()[i];
            }
        } catch (java.util.concurrent.ExecutionException error) {
            throw error.getCause() instanceof Exception inner ? inner : error;
        } finally {
            threads.shutdown();
        }
        return "foreign " + total[0] + ", rows " + total[1];
    }

    private static int[] worker(Connection own, int number) throws Exception {
        int foreign = 0;
        int sum = 0;
        long tenant = insert(own, "INSERT INTO tenants (name) VALUES (?)", "w" + number);
        try (Statement statement = own.createStatement()) {
            statement.execute("SET work_mem = '" + (number + 1) + "MB'");
        }
        for (int round = 0; round < 15; round++) {
            String email = "w" + number + "-" + round;
            write(own, "INSERT INTO users (tenant_id, email, name) VALUES (?, ?, ?)", tenant, email, email);
            for (String found : rows(own, "SELECT email FROM users WHERE tenant_id = ?", tenant).split(" \\| ")) {
                sum++;
                if (!found.startsWith("w" + number + "-")) foreign++;
            }
            if (!rows(own, "SHOW work_mem").equals((number + 1) + "MB")) foreign++;
            if (!rows(own, "SHOW application_name").equals("worker" + number)) foreign++;
        }
        return new int[] {foreign, sum};
    }

    // Beyond the common steps: what only this driver has.

    /** From the n-th use on a statement is prepared on the server under a name. */
    private static String threshold(Connection connection, int threshold) throws Exception {
        List<String> told = new ArrayList<>();
        try (PreparedStatement statement = connection.prepareStatement("SELECT name FROM users WHERE tenant_id = ? AND email = ?")) {
            PGStatement own = statement.unwrap(PGStatement.class);
            own.setPrepareThreshold(threshold);
            for (int i = 0; i < 8; i++) {
                int t = 1 + i % 4;
                statement.setLong(1, tenant(t));
                statement.setString(2, "u3@t" + t);
                told.add(Steps.show(statement.executeQuery()) + (own.isUseServerPrepare() ? " named" : ""));
            }
        }
        return String.join(", ", told);
    }

    /** A named statement whose result changes: PostgreSQL says so once, and the driver prepares it again. */
    private static String preparedAfterDdl(Connection connection, String change) throws Exception {
        connected("", other -> write(other, "CREATE TABLE wide (id int PRIMARY KEY, a bigint)"));
        try (PreparedStatement statement = connection.prepareStatement("SELECT * FROM wide")) {
            write(connection, "INSERT INTO wide VALUES (1, 2)");
            for (int i = 0; i < 6; i++) statement.executeQuery();
            connected("", other -> write(other, change));
            ResultSet rows = statement.executeQuery();
            rows.next();
            return rows.getMetaData().getColumnCount() + " columns, " + rows.getDouble(2);
        } finally {
            connected("", other -> write(other, "DROP TABLE wide"));
        }
    }

    private static String batch(Connection connection) throws Exception {
        try (PreparedStatement statement = connection.prepareStatement("INSERT INTO documents (tenant_id, title) VALUES (?, ?)")) {
            for (int n = 0; n < 300; n++) {
                statement.setLong(1, tenant(1 + n % 4));
                statement.setString(2, "batch " + n);
                statement.addBatch();
            }
            int[] counts = statement.executeBatch();
            return counts.length + " entries, " + rows(connection, "SELECT count(*) FROM documents WHERE title LIKE 'batch%'") + " rows, removed "
                    + write(connection, "DELETE FROM documents WHERE title LIKE 'batch%'");
        }
    }

    private static String batchFails(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        try (PreparedStatement statement = connection.prepareStatement("INSERT INTO users (tenant_id, email, name) VALUES (?, ?, 'batch')")) {
            for (String email : List.of("f1", "f2", "f1", "f3")) {
                statement.setLong(1, tenant(2));
                statement.setString(2, email);
                statement.addBatch();
            }
            statement.executeBatch();
            return "no failure";
        } catch (BatchUpdateException error) {
            connection.rollback();
            if (error.getSQLState().equals("0A000")) throw error;
            return error.getSQLState() + " " + Arrays.toString(error.getUpdateCounts()) + ", left "
                    + rows(connection, "SELECT count(*) FROM users WHERE tenant_id = ? AND name = 'batch'", tenant(2));
        }
    }

    private static String copy(Connection connection) throws Exception {
        CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder text = new StringBuilder();
        for (int n = 0; n < 1000; n++) text.append(tenant(1 + n % 4)).append("\tcopied ").append(n).append('\n');
        long in = copy.copyIn("COPY documents (tenant_id, title) FROM STDIN", new StringReader(text.toString()));
        StringWriter out = new StringWriter();
        long written = copy.copyOut("COPY (SELECT title FROM documents WHERE tenant_id = " + tenant(2) + " AND title LIKE 'copied%') TO STDOUT (FORMAT csv)", out);
        write(connection, "DELETE FROM documents WHERE title LIKE 'copied%'");
        return in + " in, " + written + " out, " + out.toString().lines().count() + " lines";
    }

    private static String copyFails(Connection connection) throws Exception {
        try {
            connection.unwrap(PGConnection.class).getCopyAPI().copyIn("COPY documents (tenant_id, title) FROM STDIN", new StringReader("not a number\tx\n"));
            return "no failure";
        } catch (PSQLException error) {
            if (error.getSQLState().equals("0A000")) throw error;
            return error.getSQLState() + ", then " + rows(connection, "SELECT 7");
        }
    }

    private static String copyCancelled(Connection connection) throws Exception {
        var in = connection.unwrap(PGConnection.class).getCopyAPI().copyIn("COPY documents (tenant_id, title) FROM STDIN");
        byte[] row = (tenant(1) + "\tgiven up\n").getBytes();
        in.writeToCopy(row, 0, row.length);
        in.cancelCopy();
        return rows(connection, "SELECT count(*) FROM documents WHERE tenant_id = ? AND title = 'given up'", tenant(1));
    }

    private static String listen(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute("LISTEN news");
            connected("", other -> rows(other, "SELECT pg_notify('news', 'hello')"));
            PGNotification[] heard = connection.unwrap(PGConnection.class).getNotifications(5000);
            statement.execute("UNLISTEN news");
            return heard.length + " " + heard[0].getName() + " " + heard[0].getParameter();
        }
    }

    private static String cancel(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            Thread canceller = new Thread(() -> {
                try {
                    Thread.sleep(300);
                    statement.cancel();
                } catch (InterruptedException | SQLException error) {
                    error.printStackTrace();
                }
            });
            canceller.start();
            String state = "no failure";
            try {
                statement.execute("SELECT pg_sleep(20)");
            } catch (SQLException error) {
                state = error.getSQLState();
            }
            canceller.join();
            return state + ", then " + rows(connection, "SELECT 7");
        }
    }

    private static String queryTimeout(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            statement.execute("SELECT pg_sleep(20)");
            return "no failure";
        } catch (SQLException error) {
            return error.getSQLState() + ", then " + rows(connection, "SELECT 7");
        }
    }

    private static String multi(Connection connection) throws Exception {
        List<String> told = new ArrayList<>();
        try (Statement statement = connection.createStatement()) {
            boolean rows = statement.execute("SELECT 1; UPDATE documents SET title = 'x' WHERE tenant_id = -1; SELECT 2");
            while (rows || statement.getUpdateCount() != -1) {
                told.add(rows ? Steps.show(statement.getResultSet()) : statement.getUpdateCount() + " rows");
                rows = statement.getMoreResults();
            }
        }
        return String.join(", ", told);
    }

    private static String settings(Connection connection) throws Exception {
        connection.setSchema("pg_catalog");
        String path = rows(connection, "SHOW search_path");
        connection.setReadOnly(true);
        connection.setAutoCommit(false);
        String failure = "no failure";
        try {
            write(connection, "INSERT INTO public.tenants (name) VALUES ('never')");
        } catch (SQLException error) {
            failure = error.getSQLState();
        }
        connection.rollback();
        return path + " " + rows(connection, "SHOW application_name") + " " + failure;
    }

    public static void main(String[] arguments) throws Exception {
        sql(null, "migrate");
        step("graph", "migrate", "", Run::graph);
        step("bulk-insert-returning", "", connection -> bulkInsert(connection, "b"));
        sql("graph", "upsert-with-key", "upsert-without-key", "get-without-key");
        step("get-uuid", "", Run::uuid);
        step("lazy", "", connection -> children(connection, false));
        step("select-in", "", connection -> children(connection, true));
        sql("graph", "eager", "eager-page", "page", "page-all", "count", "count-all", "avg", "avg-all", "distinct", "distinct-all",
                "having", "having-all", "exists", "exists-all");
        STEPS.step("savepoint", "graph", () -> transaction("", Run::savepoint));
        STEPS.step("nested", "graph", () -> transaction("", Run::nested));
        STEPS.step("autosave", "graph", () -> transaction("&autosave=always", Run::autosave));
        step("optimistic", "", Run::optimistic);
        STEPS.step("skip-locked", "graph", () -> transaction("", Run::skipLocked));
        sql("graph", "bulk-update", "bulk-update-all", "bulk-delete", "bulk-delete-all", "cascade");
        step("cursor", "", connection -> cursor(connection, "WHERE tenant_id = ?", 5));
        step("cursor-all", "", connection -> cursor(connection, "", 5));
        step("two-cursors", "", Run::twoCursors);
        STEPS.step("serializable", "graph", Run::serializable);
        step("reflection", "", Run::reflection);
        sql("graph", "migrate-column", "migrate-index-concurrently", "migrate-enum-value");
        step("migrate-fails", "", Run::migrateFails);
        for (int n : new int[] {0, 1, 5}) step("prepare-threshold-" + n, "", connection -> threshold(connection, n));
        step("simple-mode", "&preferQueryMode=simple", connection -> threshold(connection, 5));
        step("simple-mode-cursor", "&preferQueryMode=simple", connection -> cursor(connection, "WHERE tenant_id = ?", 5));
        step("extended-for-prepared", "&preferQueryMode=extendedForPrepared", connection -> threshold(connection, 5));
        step("extended-cache-everything", "&preferQueryMode=extendedCacheEverything", connection -> threshold(connection, 5));
        step("prepared-after-new-column", "", connection -> preparedAfterDdl(connection, "ALTER TABLE wide ADD COLUMN b text"));
        step("prepared-after-new-type", "", connection -> preparedAfterDdl(connection, "ALTER TABLE wide ALTER COLUMN a TYPE float8"));
        step("batch", "", Run::batch);
        step("batch-rewritten", "&reWriteBatchedInserts=true", Run::batch);
        step("batch-rewritten-keys", "&reWriteBatchedInserts=true", connection -> bulkInsert(connection, "r"));
        step("batch-fails", "", Run::batchFails);
        step("batch-binary-parameters", "&binaryTransfer=true&prepareThreshold=-1", Run::batch);
        step("copy", "", Run::copy);
        step("copy-fails", "", Run::copyFails);
        step("copy-cancelled", "", Run::copyCancelled);
        step("listen-notify", "", Run::listen);
        step("cancel", "", Run::cancel);
        step("query-timeout", "", Run::queryTimeout);
        step("multi-statement", "", Run::multi);
        step("settings", "&ApplicationName=shop&options=-c%20statement_timeout=9000", Run::settings);
        STEPS.step("reconnect", null, Run::reconnect);
        sql("graph", "truncate");
        STEPS.step("eight-tenants", "migrate", Run::eightTenants);
    }

    private static void step(String name, String options, Work<String> work) {
        step(name, "graph", options, work);
    }

    private static void step(String name, String after, String options, Work<String> work) {
        STEPS.step(name, after, () -> connected(options, work));
    }

    private static void sql(String after, String... names) {
        for (String name : names) step(name, after, "", connection -> STEPS.run(connection, name));
    }
}

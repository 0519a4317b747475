import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Prints steps as tests/clients/README.md asks, and runs those of lib/sql/steps.sql. Knows no step by name. */
final class Steps {
    interface Work {
        Object run() throws Exception;
    }

    private record Statement(String text, List<String> params, String save) {}

    /** Ids that later steps need. */
    final Map<String, Long> saved = new HashMap<>();
    private final Set<String> refused = new HashSet<>();
    private final Map<String, List<Statement>> statements = read();

    void step(String name, String after, Work work) {
        if (after != null && refused.contains(after)) {
            refused.add(name);
            print(name, "SKIPPED after " + after);
            return;
        }
        try {
            print(name, work.run());
        } catch (Exception error) {
            refused.add(name);
            String state = error instanceof SQLException sql ? sql.getSQLState() : null;
            String words = String.valueOf(error.getMessage()).lines().findFirst().orElse("").replace("ERROR: ", "");
            if ("0A000".equals(state)) {
                print(name, "REFUSED 0A000 " + words);
            } else {
                error.printStackTrace();
                print(name, "ERROR " + (state == null ? "-----" : state) + " " + error.getClass().getSimpleName() + " " + words);
            }
        }
    }

    private static void print(String name, Object result) {
        System.out.println(name + "\t" + String.valueOf(result).replaceAll("\\s+", " ").strip());
    }

    /** Runs the statements of a step, each by itself. */
    String run(Connection connection, String step) throws SQLException {
        List<String> results = new ArrayList<>();
        for (Statement statement : statements.get(step)) {
            // JDBC counts question marks; PostgreSQL's own $1 may stand twice or out of order.
            List<String> order = new ArrayList<>();
            String text = replace(statement, order);
            try (PreparedStatement prepared = connection.prepareStatement(text)) {
                for (int i = 0; i < order.size(); i++) {
                    String param = order.get(i);
                    if (param.startsWith("@")) prepared.setLong(i + 1, saved.get(param.substring(1)));
                    else if (param.startsWith("'")) prepared.setString(i + 1, param.substring(1, param.length() - 1));
                    else prepared.setLong(i + 1, Long.parseLong(param));
                }
                if (prepared.execute()) {
                    ResultSet rows = prepared.getResultSet();
                    if (statement.save == null) results.add(show(rows));
                    else if (rows.next()) saved.put(statement.save, rows.getLong(1));
                } else if (text.startsWith("INSERT") || text.startsWith("UPDATE") || text.startsWith("DELETE")) {
                    results.add(prepared.getUpdateCount() + " rows");
                }
            }
        }
        return String.join("; ", results);
    }

    private static String replace(Statement statement, List<String> order) {
        var matcher = java.util.regex.Pattern.compile("\\$(\\d)").matcher(statement.text);
        return matcher.replaceAll(found -> {
            order.add(statement.params.get(Integer.parseInt(found.group(1)) - 1));
            return "?";
        });
    }

    static String show(ResultSet rows) throws SQLException {
        List<String> lines = new ArrayList<>();
        while (rows.next()) {
            List<String> line = new ArrayList<>();
            for (int i = 1; i <= rows.getMetaData().getColumnCount(); i++) line.add(String.valueOf(rows.getObject(i)));
            lines.add(String.join(",", line));
        }
        return String.join(" | ", lines);
    }

    private static Map<String, List<Statement>> read() {
        Map<String, List<Statement>> steps = new HashMap<>();
        List<Statement> list = new ArrayList<>();
        List<String> params = List.of();
        String save = null;
        StringBuilder text = new StringBuilder();
        try {
            for (String line : Files.readAllLines(Path.of(System.getenv("STEPS_SQL")))) {
                if (line.startsWith("-- step: ")) {
                    steps.put(line.substring(9), list = new ArrayList<>());
                } else if (line.startsWith("-- params: ")) {
                    params = List.of(line.substring(11).split(", "));
                } else if (line.startsWith("-- save: ")) {
                    save = line.substring(9);
                } else if (!line.isEmpty() && !line.startsWith("--")) {
                    text.append(line).append('\n');
                    if (line.endsWith(";")) {
                        list.add(new Statement(text.substring(0, text.length() - 2), params, save));
                        params = List.of();
                        save = null;
                        text.setLength(0);
                    }
                }
            }
        } catch (java.io.IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
        return steps;
    }
}

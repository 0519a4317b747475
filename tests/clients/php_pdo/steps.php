<?php
// Prints steps as tests/clients/README.md asks, and runs those of lib/sql/steps.sql. Knows no step by name.
declare(strict_types=1);

$saved = [];
$refused = [];

function step(string $name, ?string $after, callable $work): void
{
    global $refused;
    if ($after !== null && isset($refused[$after])) {
        $refused[$name] = true;
        say($name, "SKIPPED after $after");
        return;
    }
    try {
        say($name, (string) $work());
    } catch (Throwable $error) {
        $refused[$name] = true;
        $code = $error instanceof PDOException ? sqlstate($error) : '-----';
        $words = preg_replace('/^SQLSTATE\[\w+\]: [^:]*: \d+ (ERROR|FATAL):\s+/', '', explode("\n", $error->getMessage())[0]);
        if ($code === '0A000') {
            say($name, "REFUSED 0A000 $words");
        } else {
            fwrite(STDERR, "$name: $error\n");
            say($name, "ERROR $code " . get_class($error) . " $words");
        }
    }
}

function say(string $name, string $result): void
{
    echo $name, "\t", trim(preg_replace('/\s+/', ' ', $result)), "\n";
}

function sqlstate(PDOException $error): string
{
    return $error->errorInfo[0] ?? (string) $error->getCode();
}

/** What a failure that the step expects looks like; a refusal stays a refusal. */
function expected(callable $work): string
{
    try {
        $work();
        return 'no failure';
    } catch (PDOException $error) {
        if (sqlstate($error) === '0A000') {
            throw $error;
        }
        return get_class($error) . ' ' . sqlstate($error);
    }
}

function show(PDOStatement $rows): string
{
    $text = fn ($value) => is_bool($value) ? ($value ? 't' : 'f') : (string) $value;
    return implode(' | ', array_map(fn ($row) => implode(',', array_map($text, $row)), $rows->fetchAll(PDO::FETCH_NUM)));
}

function ask(PDO $pdo, string $text, array $values = []): PDOStatement
{
    $statement = $pdo->prepare($text);
    foreach (array_values($values) as $n => $value) {
        $statement->bindValue($n + 1, $value, is_int($value) ? PDO::PARAM_INT : PDO::PARAM_STR);
    }
    $statement->execute();
    return $statement;
}

/** Runs the statements of a step, each by itself. */
function run(PDO $pdo, array $list): string
{
    global $saved;
    $results = [];
    foreach ($list as ['text' => $text, 'params' => $params, 'save' => $save]) {
        $values = [];
        // PDO counts question marks; PostgreSQL's own $1 may stand twice or out of order.
        $text = preg_replace_callback('/\$(\d)/', function ($found) use ($params, &$values, $saved) {
            $param = $params[$found[1] - 1];
            $values[] = $param[0] === '@' ? $saved[substr($param, 1)] : ($param[0] === "'" ? trim($param, "'") : (int) $param);
            return '?';
        }, $text);
        $statement = ask($pdo, $text, $values);
        if ($save !== null) {
            $saved[$save] = $statement->fetchColumn();
        } elseif ($statement->columnCount() > 0) {
            $results[] = show($statement);
        } elseif (preg_match('/^(INSERT|UPDATE|DELETE)/', $text)) {
            $results[] = $statement->rowCount() . ' rows';
        }
    }
    return implode('; ', $results);
}

/** The statements of lib/sql/steps.sql by step. */
function statements(): array
{
    $steps = [];
    $name = '';
    $empty = ['text' => '', 'params' => [], 'save' => null];
    $next = $empty;
    foreach (file(__DIR__ . '/../lib/sql/steps.sql', FILE_IGNORE_NEW_LINES) as $line) {
        if (preg_match('/^-- (step|params|save): (.*)$/', $line, $found)) {
            match ($found[1]) {
                'step' => $name = $found[2],
                'params' => $next['params'] = explode(', ', $found[2]),
                'save' => $next['save'] = $found[2],
            };
        } elseif ($line !== '' && !str_starts_with($line, '--')) {
            $next['text'] .= rtrim($line, ';') . "\n";
            if (str_ends_with($line, ';')) {
                $steps[$name][] = $next;
                $next = $empty;
            }
        }
    }
    return $steps;
}

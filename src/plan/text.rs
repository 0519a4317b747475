//! The compact text of a plan: for EXPLAIN (OSTRAKON) and the planner's cases.

use std::fmt::Write as _;

use super::steps::{RowsTarget, RowsTo, Steps};
use super::{
    AggregateFunction, AggregateOutput, AggregateSpec, Class, ColumnRef, CompareOperator, Condition, CopyPlan, Fill,
    FillSource, InsertPlan, KeyTuple, MergeSpec, OrderKey, Plan, Route, Several, Slot,
};

/// A plan in a few lines, without the values that it will be bound to.
pub fn render(plan: &Plan) -> String {
    let mut out = String::new();
    let class = match plan.class {
        Class::Read => "read",
        Class::ReadLock => "read and lock",
        Class::Write => "write",
        Class::Ddl => "ddl",
    };
    let _ = writeln!(out, "{class} on {}", route(&plan.route));
    let has_several = match &plan.route {
        Route::Any | Route::Shard(_) => false,
        Route::Keys(keys) => keys.len() > 1 || keys.iter().flat_map(|key| &key.parts).any(|part| part.is_array),
        Route::All | Route::ByRow => true,
    };
    match &plan.several {
        Several::Refuse(refusal) if has_several => {
            let _ = writeln!(out, "several: refused, {}", refusal.message);
        }
        Several::Refuse(_) => {}
        _ if !has_several => {}
        Several::Merge { merge, .. } => {
            let _ = writeln!(out, "several: {}", merge_text(merge));
        }
        Several::ExplainMerge { merge, .. } => {
            let _ = writeln!(out, "several: the plan of each, for: {}", merge_text(merge));
        }
        Several::Gather(gather) => {
            let _ = writeln!(out, "several: {}", super::gather::render(gather));
        }
        Several::Sum => out.push_str("several: each its part\n"),
        Several::Same => out.push_str("several: all the same\n"),
        Several::Steps(steps) => {
            let _ = writeln!(out, "several: {}", steps_text(steps));
        }
    }
    if let Some(insert) = &plan.insert {
        let _ = writeln!(out, "{}", insert_text(insert));
    }
    if let Some(copy) = &plan.copy {
        let _ = writeln!(out, "{}", copy_text(copy));
    }
    if plan.outside_transaction {
        out.push_str("outside a transaction\n");
    }
    if plan.inside_transaction.is_some() {
        out.push_str("inside a transaction only\n");
    }
    if plan.changes_schema {
        out.push_str("changes the schema\n");
    }
    let _ = writeln!(out, "because {}", plan.reason);
    out
}

fn route(route: &Route) -> String {
    match route {
        Route::Any => "any shard".to_owned(),
        Route::Shard(shard) => format!("shard {shard}"),
        Route::Keys(keys) => format!("keys {}", keys.iter().map(key).collect::<Vec<_>>().join(" ")),
        Route::All => "all shards".to_owned(),
        Route::ByRow => "the shard of each row".to_owned(),
    }
}

fn key(key: &KeyTuple) -> String {
    let parts: Vec<String> = key
        .parts
        .iter()
        .map(|part| {
            let any = if part.is_array { "any " } else { "" };
            format!("{any}{}:{}", slot(&part.slot), format!("{:?}", part.key_type).to_lowercase())
        })
        .collect();
    format!("({})", parts.join(", "))
}

/// A place of a value: `$1`, `#0` for the first literal, `-#0`, `null`, `fill 0`.
pub fn slot(slot: &Slot) -> String {
    match slot {
        Slot::Literal { index, negative: false } => format!("#{index}"),
        Slot::Literal { index, negative: true } => format!("-#{index}"),
        Slot::Param(number) => format!("${number}"),
        Slot::Null => "null".to_owned(),
        Slot::Known(_) => "known".to_owned(),
        Slot::Fill(fill) => format!("fill {fill}"),
    }
}

/// How rows of several shards become one result.
pub fn merge_text(merge: &MergeSpec) -> String {
    let mut words = Vec::new();
    if merge.distinct {
        words.push("distinct".to_owned());
    }
    if let Some(aggregate) = &merge.aggregate {
        words.push(aggregate_text(aggregate));
    }
    if !merge.order.is_empty() {
        words.push(format!("merge by {}", order(&merge.order)));
    }
    if let Some(limit) = &merge.limit {
        words.push(format!("limit {}", slot(limit)));
    }
    if let Some(offset) = &merge.offset {
        words.push(format!("offset {}", slot(offset)));
    }
    if words.is_empty() {
        words.push("one after the other".to_owned());
    }
    if merge.hidden > 0 {
        words.push(format!("hidden {}", merge.hidden));
    }
    words.join(", ")
}

fn aggregate_text(aggregate: &AggregateSpec) -> String {
    let outputs: Vec<String> = aggregate.outputs.iter().map(output).collect();
    let mut text = format!("combine {}", outputs.join(" "));
    if !aggregate.groups.is_empty() {
        let groups: Vec<String> = aggregate.groups.iter().map(|group| column(*group)).collect();
        let _ = write!(text, " for each {}", groups.join(" "));
    }
    if let Some(having) = &aggregate.having {
        let _ = write!(text, " having {}", condition(having));
    }
    if !aggregate.order.is_empty() {
        let _ = write!(text, ", sort by {}", order(&aggregate.order));
    }
    text
}

fn output(output: &AggregateOutput) -> String {
    let bytes = |text_is_bytewise: bool| if text_is_bytewise { "" } else { " not bytewise" };
    let function = match output.function {
        AggregateFunction::Count => "count".to_owned(),
        AggregateFunction::Sum => "sum".to_owned(),
        AggregateFunction::Min { text_is_bytewise } => format!("min{}", bytes(text_is_bytewise)),
        AggregateFunction::Max { text_is_bytewise } => format!("max{}", bytes(text_is_bytewise)),
        AggregateFunction::Avg { sum, count } => format!("avg of {} {}", column(sum), column(count)),
        AggregateFunction::BoolAnd => "bool_and".to_owned(),
        AggregateFunction::BoolOr => "bool_or".to_owned(),
        AggregateFunction::BitAnd => "bit_and".to_owned(),
        AggregateFunction::BitOr => "bit_or".to_owned(),
    };
    format!("{}={function}", column(output.column))
}

fn order(keys: &[OrderKey]) -> String {
    let keys: Vec<String> = keys
        .iter()
        .map(|key| {
            let mut text = column(key.column);
            if key.descending {
                text.push_str(" desc");
            }
            if key.nulls_first != key.descending {
                text.push_str(if key.nulls_first { " nulls first" } else { " nulls last" });
            }
            if !key.text_is_bytewise {
                text.push_str(" not bytewise");
            }
            text
        })
        .collect();
    keys.join(", ")
}

fn column(column: ColumnRef) -> String {
    match column {
        ColumnRef::Visible(index) => format!("c{index}"),
        ColumnRef::Hidden(index) => format!("h{index}"),
    }
}

fn condition(condition_: &Condition) -> String {
    let joined = |terms: &[Condition], word: &str| {
        let terms: Vec<String> = terms.iter().map(condition).collect();
        format!("({})", terms.join(word))
    };
    match condition_ {
        Condition::And(terms) => joined(terms, " and "),
        Condition::Or(terms) => joined(terms, " or "),
        Condition::Not(term) => format!("not {}", condition(term)),
        Condition::Compare { column: left, operator, value, text_is_bytewise } => {
            let operator = match operator {
                CompareOperator::Equal => "=",
                CompareOperator::NotEqual => "<>",
                CompareOperator::Less => "<",
                CompareOperator::LessOrEqual => "<=",
                CompareOperator::Greater => ">",
                CompareOperator::GreaterOrEqual => ">=",
            };
            let bytes = if *text_is_bytewise { "" } else { " not bytewise" };
            format!("{} {operator} {}{bytes}", column(*left), slot(value))
        }
        Condition::IsNull { column: operand, negated } => {
            format!("{} is {}null", column(*operand), if *negated { "not " } else { "" })
        }
    }
}

fn insert_text(insert: &InsertPlan) -> String {
    let mut text = format!("insert {} row(s)", insert.rows.len());
    for (index, row) in insert.rows.iter().enumerate() {
        if !row.key.is_empty() {
            let _ =
                write!(text, "{} {}", if index == 0 { " by" } else { "" }, key(&KeyTuple { parts: row.key.clone() }));
        }
    }
    for (index, fill) in insert.fills.iter().enumerate() {
        let _ = write!(text, ", fill {index}: {}", fill_text(fill));
    }
    if insert.everywhere {
        text.push_str(", everywhere");
    }
    if insert.may_skip_rows {
        text.push_str(", may skip rows");
    }
    if insert.returning {
        text.push_str(", returning");
    }
    text
}

fn fill_text(fill: &Fill) -> String {
    match &fill.source {
        FillSource::Sequence(sequence) => format!("{} from {}", fill.column, sequence.name),
        FillSource::Default => format!("{} from its default", fill.column),
        FillSource::Expression => format!("{} from its expression", fill.column),
    }
}

fn steps_text(steps: &Steps) -> String {
    match steps {
        Steps::InsertRows(insert) => format!("the query's rows, {}", target_text(&insert.target)),
        Steps::MoveRows(moved) => {
            let mut text = format!("rows whose key changes move, {}", target_text(&moved.target));
            if let Some(new_key) = &moved.new_key {
                let _ = write!(text, ", to {}", key(new_key));
            }
            text
        }
        Steps::QueriesFirst(queries) => {
            let kinds: Vec<String> = queries.iter().map(|query| format!("{:?}", query.kind).to_lowercase()).collect();
            format!("queries first: {}", kinds.join(", "))
        }
    }
}

fn target_text(target: &RowsTarget) -> String {
    let to = match target.to {
        RowsTo::Owner => " by".to_owned(),
        RowsTo::Shard(shard) => format!(" on shard {shard}"),
        RowsTo::All => " on all shards".to_owned(),
    };
    let mut text = format!("each into {} ({}){to}", target.table.name, target.columns.join(", "));
    for (place, key_type) in &target.key {
        let _ = write!(text, " {place}:{}", format!("{key_type:?}").to_lowercase());
    }
    for (index, fill) in target.fills.iter().enumerate() {
        let _ = write!(text, ", fill {index}: {}", fill_text(fill));
    }
    if target.returning {
        text.push_str(", returning");
    }
    text
}

fn copy_text(copy: &CopyPlan) -> String {
    let mut text = format!("copy {}", if copy.from { "from" } else { "to" });
    if let Some(table) = &copy.table {
        let _ = write!(text, " {}", table.name);
    }
    let _ = write!(text, " {:?}", copy.options.format);
    if copy.columns > 0 {
        let _ = write!(text, ", {} fields", copy.columns);
    }
    if !copy.key.is_empty() {
        let fields: Vec<String> = copy
            .key
            .iter()
            .map(|(field, key_type)| format!("{field}:{}", format!("{key_type:?}").to_lowercase()))
            .collect();
        let _ = write!(text, ", key fields {}", fields.join(" "));
    }
    for (index, fill) in copy.fills.iter().enumerate() {
        let _ = write!(text, ", fill {index}: {}", fill_text(fill));
    }
    text
}

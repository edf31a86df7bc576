//! On what machine, with which settings, versions and commands: everything of the environment that
//! a journal holds, also what later versions add to it.

use maud::{Markup, html};
use serde_json::{Map, Value};

use super::Page;
use crate::journal::{Described, Session};

/// A card for each benchmark, the newest first and open.
pub(super) fn cards(page: &Page<'_>) -> Markup {
    let sessions: Vec<&Session> = page.recorded.sessions.iter().rev().collect();
    html! {
        @for (index, session) in sessions.iter().enumerate() {
            details class="card" open[index == 0] {
                summary {
                    strong { (session.fact("date")) } " · commit " (session.fact("commit")) " · "
                    (session.runs.len()) " runs"
                    @let disturbed = session.runs.iter().filter(|run| run.disturbed).count();
                    @if disturbed > 0 { ", " (disturbed) " disturbed" }
                    @let failed = session.runs.iter().filter(|run| run.figures.is_none()).count();
                    @if failed > 0 { ", " (failed) " failed" }
                }
                (facts(&session.environment))
                (tunnels(session))
            }
        }
    }
}

fn facts(environment: &Map<String, Value>) -> Markup {
    if environment.is_empty() {
        return html! {
            p class="muted" { "The beginning of this benchmark is not in the journal." }
        };
    }
    html! {
        div class="scroll" {
            table class="facts" { tbody {
                @for (name, value) in environment.iter().filter(|(_, value)| !value.is_object()) {
                    tr { th scope="row" { (name.replace('_', " ")) } td { code { (text(value)) } } }
                }
                @for (name, value) in environment {
                    @if let Some(inner) = value.as_object() {
                        tr {
                            th scope="row" { (name.replace('_', " ")) }
                            td { pre { (lines(inner)) } }
                        }
                    }
                }
            } }
        }
    }
}

fn tunnels(session: &Session) -> Markup {
    html! {
        div class="scroll" {
            table class="facts" { tbody {
                @for tunnel in &session.tunnels {
                    tr { th scope="row" { (tunnel.name) } td { (tunnel_text(tunnel)) } }
                }
                @for (name, why) in &session.absent {
                    tr { th scope="row" { (name) } td { "not measured: " (why) } }
                }
            } }
        }
    }
}

fn tunnel_text(tunnel: &Described) -> Markup {
    html! {
        @if tunnel.commands.is_empty() {
            code { (tunnel.how) }
        } @else {
            pre { (tunnel.commands.join("\n")) }
        }
        @for (program, version) in &tunnel.versions {
            p class="muted" { (program) ": " (version) }
        }
    }
}

/// `name = value`, a line each.
fn lines(values: &Map<String, Value>) -> String {
    let line = |(name, value): (&String, &Value)| match value.as_object() {
        Some(inner) => {
            let inner: Vec<String> =
                inner.iter().map(|(name, value)| format!("{name} {}", text(value))).collect();
            format!("{name}: {}", inner.join(", "))
        }
        None => format!("{name} = {}", text(value)),
    };
    values.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        other => other.to_string(),
    }
}

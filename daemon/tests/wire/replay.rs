//! Plays recorded steps: fills in what earlier answers gave, sends, waits, compares.

use crate::client::{self, Address, Answer, Request};
use crate::exceptions::{self, Exception};
use crate::matching;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A request that waits has surely arrived after this.
const ARRIVAL: Duration = Duration::from_millis(150);

/// The state between steps.
pub(crate) struct Replay {
    address: Address,
    variables: BTreeMap<String, Value>,
    /// Requests under way, by name, with the step they belong to.
    waiting: BTreeMap<String, (JoinHandle<io::Result<Timed>>, Value)>,
}

/// An answer and how long it took, in seconds.
struct Timed {
    answer: Answer,
    seconds: f64,
}

impl Replay {
    /// Knows of the server what recordings refer to.
    pub(crate) fn discover(address: Address) -> Replay {
        let answer = client::get(address, "/v1/agent/self").expect("ask the server what it is");
        let described: Value = serde_json::from_slice(&answer.body).expect("it describes itself in JSON");
        let names = [("node", "NodeName"), ("dc", "Datacenter"), ("nodeid", "NodeID")];
        let variables = names.map(|(variable, member)| (variable.to_owned(), described["Config"][member].clone()));
        Replay { address, variables: variables.into(), waiting: BTreeMap::new() }
    }

    /// Every difference.
    pub(crate) fn step(&mut self, step: &Value) -> Vec<String> {
        if let Some(ms) = step["sleep_ms"].as_u64() {
            std::thread::sleep(Duration::from_millis(ms));
            return Vec::new();
        }
        if let Some(name) = step["await"].as_str() {
            // Nothing waits under this name if the step that asked was skipped.
            let Some((thread, step)) = self.waiting.remove(name) else {
                return Vec::new();
            };
            return match thread.join().expect("a client does not panic") {
                Ok(timed) => self.compare(&step, &timed),
                Err(error) => vec![failure(&step, &error.to_string())],
            };
        }
        let request = match self.request(step) {
            Ok(request) => request,
            Err(missing) => return vec![failure(step, &missing)],
        };
        let address = self.address;
        if let Some(name) = step["async"].as_str() {
            let thread = std::thread::spawn(move || timed(address, &request));
            self.waiting.insert(name.to_owned(), (thread, step.clone()));
            std::thread::sleep(ARRIVAL);
            return Vec::new();
        }
        match self.ask(step, &request) {
            Ok(timed) => self.compare(step, &timed),
            Err(error) => vec![failure(step, &error.to_string())],
        }
    }

    /// Asks, again and again for a while if the step waits for a state.
    fn ask(&self, step: &Value, request: &Request) -> io::Result<Timed> {
        let end = Instant::now() + Duration::from_millis(step["retry_ms"].as_u64().unwrap_or(0));
        loop {
            let timed = timed(self.address, request)?;
            let Some(until) = step["until"].as_array() else {
                return Ok(timed);
            };
            if Instant::now() >= end || self.assertion(until, &timed).is_none() {
                return Ok(timed);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn request(&self, step: &Value) -> Result<Request, String> {
        let recorded = &step["request"];
        let headers = recorded["headers"].as_object().into_iter().flatten();
        let headers = headers.map(|(name, value)| Ok((name.clone(), self.filled(value.as_str().unwrap_or_default())?)));
        Ok(Request {
            method: recorded["method"].as_str().ok_or("a request has a method")?.to_owned(),
            path: self.filled(recorded["path"].as_str().ok_or("a request has a path")?)?,
            headers: headers.collect::<Result<_, String>>()?,
            body: self.body(recorded)?,
            close: false,
        })
    }

    fn body(&self, recorded: &Value) -> Result<Option<Vec<u8>>, String> {
        let decode = |text: &str| STANDARD.decode(text).map_err(|error| error.to_string());
        if let Some(json) = recorded.get("json") {
            return Ok(Some(spaced(&self.filled_json(json)?)));
        }
        if let Some(text) = recorded["text"].as_str() {
            return Ok(Some(self.filled(text)?.into_bytes()));
        }
        if let Some(text) = recorded["b64"].as_str() {
            return decode(text).map(Some);
        }
        if let Some(name) = recorded["var_b64"].as_str() {
            return decode(&self.variable(name)?).map(Some);
        }
        let Some(fill) = recorded.get("fill") else {
            return Ok(None);
        };
        let number = |name: &str| fill[name].as_u64().ok_or_else(|| format!("fill has a {name}"));
        let byte = u8::try_from(number("byte")?).map_err(|error| error.to_string())?;
        let length = usize::try_from(number("len")?).map_err(|error| error.to_string())?;
        Ok(Some(vec![byte; length]))
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        match self.variables.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Ok(other.to_string()),
            None => Err(format!("nothing was captured as {name}")),
        }
    }

    /// The text with every `{{variable}}` filled in.
    fn filled(&self, text: &str) -> Result<String, String> {
        let mut parts = text.split("{{");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once("}}").ok_or_else(|| format!("open braces in {text:?}"))?;
            out += &self.variable(name)?;
            out += rest;
        }
        Ok(out)
    }

    /// `"{{=variable}}"` becomes a number.
    fn filled_json(&self, value: &Value) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => match text.strip_prefix("{{=").and_then(|rest| rest.strip_suffix("}}")) {
                Some(name) => {
                    let number: u64 = self.variable(name)?.parse().map_err(|_| format!("{name} is no number"))?;
                    number.into()
                }
                None => self.filled(text)?.into(),
            },
            Value::Array(values) => {
                Value::Array(values.iter().map(|value| self.filled_json(value)).collect::<Result<_, _>>()?)
            }
            Value::Object(members) => {
                let filled = members.iter().map(|(name, value)| Ok((self.filled(name)?, self.filled_json(value)?)));
                Value::Object(filled.collect::<Result<_, String>>()?)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }

    fn compare(&mut self, step: &Value, timed: &Timed) -> Vec<String> {
        let id = step["id"].as_str().unwrap_or_default();
        if let Some(Exception::Status { status, .. }) = exceptions::of(id)
            && status == timed.answer.status
        {
            return Vec::new();
        }
        let mut all = self.capture(step, timed);
        all.extend(self.answer(&step["response"], &timed.answer));
        for assertion in step["assert"].as_array().into_iter().flatten() {
            all.extend(self.assertion(assertion.as_array().expect("an assertion is an array"), timed));
        }
        all.into_iter().map(|difference| failure(step, &difference)).collect()
    }

    fn capture(&mut self, step: &Value, timed: &Timed) -> Vec<String> {
        let mut missing = Vec::new();
        for (name, from) in step["capture"].as_object().into_iter().flatten() {
            let from = from.as_str().unwrap_or_default();
            let value = match from {
                "base64:body" => Some(STANDARD.encode(&timed.answer.body).into()),
                from => self.value(&Value::from(from), timed),
            };
            match value {
                Some(value) => drop(self.variables.insert(name.clone(), value)),
                None => missing.push(format!("nothing to capture as {name} from {from}")),
            }
        }
        missing
    }

    fn answer(&self, expected: &Value, found: &Answer) -> Vec<String> {
        let mut all = Vec::new();
        if expected["status"] != found.status {
            let text = String::from_utf8_lossy(&found.body);
            let start: String = text.chars().take(200).collect();
            all.push(format!("status: expected {}, found {}: {start}", expected["status"], found.status));
        }
        for (name, value) in expected["headers"].as_object().into_iter().flatten() {
            let wanted = self.filled(value.as_str().unwrap_or_default()).unwrap_or_else(|missing| missing);
            match found.header(name) {
                Some(value) if matching::text_matches(&wanted, value) => {}
                found => all.push(format!("header {name}: expected {wanted:?}, found {found:?}")),
            }
        }
        for name in expected["headers_absent"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if let Some(value) = found.header(name) {
                all.push(format!("header {name}: expected none, found {value:?}"));
            }
        }
        all.extend(self.body_differences(expected, found));
        all
    }

    fn body_differences(&self, expected: &Value, found: &Answer) -> Vec<String> {
        let text = String::from_utf8_lossy(&found.body);
        if let Some(json) = expected.get("json") {
            let Ok(found) = serde_json::from_str::<Value>(&text) else {
                return vec![format!("no JSON: {text:?}")];
            };
            return match self.filled_json(json) {
                Ok(expected) => matching::differences(&expected, &found, "$"),
                Err(missing) => vec![missing],
            };
        }
        if let Some(wanted) = expected["text"].as_str() {
            let wanted = self.filled(wanted).unwrap_or_else(|missing| missing);
            let same = wanted == "<any>" || matching::text_matches(&wanted, &text);
            return if same { Vec::new() } else { vec![format!("body: expected {wanted:?}, found {text:?}")] };
        }
        if expected["empty"] == true && !found.body.is_empty() {
            return vec![format!("body: expected none, found {text:?}")];
        }
        match expected["b64"].as_str() {
            Some(encoded) if encoded != STANDARD.encode(&found.body) => vec!["binary body differs".to_owned()],
            _ => Vec::new(),
        }
    }

    /// Why `[operator, left, right]` does not hold.
    fn assertion(&self, assertion: &[Value], timed: &Timed) -> Option<String> {
        let [operator, left, right] = assertion else {
            return Some(format!("bad assertion {assertion:?}"));
        };
        let (Some(a), Some(b)) = (self.value(left, timed), self.value(right, timed)) else {
            return Some(format!("assert {operator} {left} {right}: a value is missing"));
        };
        let order = match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => a.partial_cmp(&b),
            _ => None,
        };
        let holds = match operator.as_str().unwrap_or_default() {
            "eq" => a == b || order.is_some_and(|order| order.is_eq()),
            "ne" => a != b && order.is_none_or(|order| order.is_ne()),
            "gt" => order.is_some_and(|order| order.is_gt()),
            "ge" => order.is_some_and(|order| order.is_ge()),
            "lt" => order.is_some_and(|order| order.is_lt()),
            "le" => order.is_some_and(|order| order.is_le()),
            "contains" => match (&a, &b) {
                (Value::Array(values), wanted) => values.contains(wanted),
                (Value::String(text), Value::String(part)) => text.contains(part.as_str()),
                _ => false,
            },
            other => return Some(format!("unknown operator {other}")),
        };
        (!holds).then(|| format!("assert {operator} {left}={a} {right}={b}"))
    }

    /// What one side of an assertion stands for.
    fn value(&self, side: &Value, timed: &Timed) -> Option<Value> {
        let Value::String(text) = side else {
            return Some(side.clone());
        };
        if let Some(pointer) = text.strip_prefix("body:") {
            let body: Value = serde_json::from_slice(&timed.answer.body).ok()?;
            return body.pointer(pointer).cloned();
        }
        if let Some(name) = text.strip_prefix("header:") {
            let value = timed.answer.header(name)?;
            return Some(value.parse::<u64>().map_or_else(|_| value.into(), Value::from));
        }
        match text.as_str() {
            "elapsed" => Some(timed.seconds.into()),
            "status" => Some(timed.answer.status.into()),
            text => match text.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")) {
                Some(name) => self.variables.get(name).cloned(),
                None => self.filled(text).ok().map(Value::from),
            },
        }
    }
}

/// JSON with a blank behind each comma and colon: as the recorder sent it, so that recorded lengths are right.
fn spaced(value: &Value) -> Vec<u8> {
    let compact = value.to_string();
    let (mut out, mut in_string, mut escaped) = (Vec::new(), false, false);
    for byte in compact.bytes() {
        out.push(byte);
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else {
            in_string = byte == b'"';
            out.extend(matches!(byte, b',' | b':').then_some(b' '));
        }
    }
    out
}

fn timed(address: Address, request: &Request) -> io::Result<Timed> {
    let begun = Instant::now();
    let answer = client::send(address, request)?;
    Ok(Timed { answer, seconds: begun.elapsed().as_secs_f64() })
}

fn failure(step: &Value, text: &str) -> String {
    let (method, path) = (&step["request"]["method"], &step["request"]["path"]);
    format!("{} {method} {path}: {text}", step["id"])
}

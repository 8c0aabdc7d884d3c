//! What a request may look like. The server judges it as well, by the same bounds; here it costs nobody else anything.

use mayfly_model::task::{
    KEY_MAX, PARAMETER_KEY_MAX, PARAMETER_VALUE_MAX, PARAMETERS_MAX, REASON_MAX, SCOPE_MAX, SCOPES_MAX, TICKET_MAX,
    TaskName,
};
use mayfly_proto::mayfly::workload::RequestRequest;

/// The longest detail of an end, in bytes.
const DETAIL: usize = 256;

/// What is wrong with `request`, if anything.
pub(super) fn check(request: &RequestRequest) -> Result<(), String> {
    let RequestRequest {
        task,
        reason,
        ticket,
        window_seconds: _,
        scopes,
        parameters,
        idempotency_key,
        spiffe_id: _,
    } = request;
    task.parse::<TaskName>().map_err(|error| format!("task: {error}"))?;
    if reason.trim().is_empty() {
        return Err("reason: say why; those who approve read it, and it goes on record".into());
    }
    within("reason", reason, REASON_MAX)?;
    within("ticket", ticket, TICKET_MAX)?;
    within("idempotency_key", idempotency_key, KEY_MAX)?;
    if scopes.len() > SCOPES_MAX {
        return Err(format!("scopes: at most {SCOPES_MAX}"));
    }
    for scope in scopes {
        within("scopes", scope, SCOPE_MAX)?;
    }
    if parameters.len() > PARAMETERS_MAX {
        return Err(format!("parameters: at most {PARAMETERS_MAX}"));
    }
    for (key, value) in parameters {
        let is_known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if key.is_empty() || key.len() > PARAMETER_KEY_MAX || !key.bytes().all(is_known) {
            return Err(format!(
                "parameters: a key has 1 to {PARAMETER_KEY_MAX} of a-z 0-9 . _ -"
            ));
        }
        within("parameters", value, PARAMETER_VALUE_MAX)?;
    }
    Ok(())
}

pub(super) fn check_detail(detail: &str) -> Result<(), String> {
    within("detail", detail, DETAIL)
}

fn within(field: &str, text: &str, most: usize) -> Result<(), String> {
    if text.len() > most {
        return Err(format!("{field}: at most {most} bytes, this has {}", text.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_has_its_bounds_and_the_first_one_broken_is_named() {
        let good = RequestRequest {
            task: "pay/db-migrate".into(),
            reason: "x".repeat(REASON_MAX),
            ticket: "x".repeat(TICKET_MAX),
            parameters: (0..32)
                .map(|i| (format!("k.{i}"), "v".repeat(PARAMETER_VALUE_MAX)))
                .collect(),
            idempotency_key: "x".repeat(KEY_MAX),
            ..RequestRequest::default()
        };
        assert_eq!(check(&good), Ok(()));
        let broken = |change: fn(&mut RequestRequest)| {
            let mut request = good.clone();
            change(&mut request);
            check(&request).unwrap_err()
        };
        assert!(broken(|request| request.task = "migrate".into()).starts_with("task: "));
        assert!(broken(|request| request.reason = " \n".into()).starts_with("reason: say why"));
        assert!(broken(|request| request.reason.push('x')).contains("at most 1024 bytes"));
        assert!(broken(|request| request.ticket.push('x')).starts_with("ticket: "));
        assert!(broken(|request| request.idempotency_key.push('x')).starts_with("idempotency_key: "));
        assert!(broken(|request| request.scopes = vec![String::new(); SCOPES_MAX + 1]).starts_with("scopes: "));
        let parameter = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert!(broken(|request| request.parameters.extend([("k".into(), "v".into())])).contains("at most 32"));
        let mut request = good.clone();
        request.parameters = [parameter("A", "v")].into();
        assert!(check(&request).unwrap_err().contains("a key has"));
        request.parameters = [parameter("a", &"v".repeat(PARAMETER_VALUE_MAX + 1))].into();
        assert!(check(&request).unwrap_err().starts_with("parameters: at most"));
        assert!(check_detail(&"x".repeat(DETAIL)).is_ok() && check_detail(&"x".repeat(DETAIL + 1)).is_err());
    }
}

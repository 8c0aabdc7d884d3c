use super::*;

const NOW: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(NOW + seconds)
}

fn exception(id: &str, expires_at: Timestamp) -> Exception {
    Exception {
        id: id.into(),
        identity: "spiffe://td/db".parse().unwrap(),
        allows: "reads backups".into(),
        scopes: ["backup:read".to_owned()].into(),
        owner: "ann".parse().unwrap(),
        reason: "the appliance knows no tasks".into(),
        compensating_control: "its network is closed".into(),
        approved_by: String::new(),
        granted_at: Timestamp::default(),
        approved_at: Timestamp::default(),
        expires_at,
        renewals: 7,
        state: ExceptionState::Ended,
        ended_at: None,
        power_removed: true,
        gives: None,
    }
}

fn granted(id: &str, seconds: i64) -> Exception {
    let step = ExceptionStep::Grant {
        exception: Box::new(exception(id, at(seconds))),
    };
    Exception::after(None, None, &step, "bob", at(0)).unwrap()
}

fn on(present: &Exception, step: &ExceptionStep, seconds: i64) -> Result<Exception, Conflict> {
    Exception::after(Some(present), Some(present), step, "cay", at(seconds))
}

#[test]
fn what_is_granted_begins_now_whatever_it_says_of_itself() {
    let granted = granted("1", 10);
    assert_eq!((granted.state, granted.renewals), (ExceptionState::InForce, 0));
    assert_eq!((granted.approved_by.as_str(), granted.granted_at), ("bob", at(0)));
    assert!(!granted.power_removed && !granted.stops(at(9)) && granted.stops(at(10)));
}

#[test]
fn an_identity_has_one_exception_at_a_time() {
    let first = granted("1", 10);
    let step = ExceptionStep::Grant {
        exception: Box::new(exception("2", at(50))),
    };
    let second = Exception::after(None, Some(&first), &step, "bob", at(9));
    assert!(matches!(second, Err(Conflict::ExceptionExists(id)) if id == "1"));
    let second = Exception::after(None, Some(&first), &step, "bob", at(10)).unwrap();
    let renew = ExceptionStep::Renew {
        expires_at: at(90),
        reason: "still".into(),
    };
    let renewed = Exception::after(Some(&first), Some(&second), &renew, "bob", at(11));
    assert!(matches!(renewed, Err(Conflict::ExceptionExists(id)) if id == "2"));
}

#[test]
fn it_expires_at_its_instant_and_not_before_and_can_be_renewed() {
    let granted = granted("1", 10);
    assert!(matches!(
        on(&granted, &ExceptionStep::Expire, 9),
        Err(Conflict::ExceptionNotDue)
    ));
    let expired = on(&granted, &ExceptionStep::Expire, 10).unwrap();
    assert_eq!(
        (expired.state, expired.ended_at),
        (ExceptionState::Expired, Some(at(10)))
    );
    assert!(matches!(
        on(&expired, &ExceptionStep::Expire, 11),
        Err(Conflict::ExceptionNotDue)
    ));
    // Also where the clock is set back.
    assert!(expired.stops(at(0)));
    let renew = ExceptionStep::Renew {
        expires_at: at(100),
        reason: "still".into(),
    };
    let renewed = on(&expired, &renew, 20).unwrap();
    assert_eq!((renewed.renewals, renewed.approved_by.as_str()), (1, "cay"));
    assert!(renewed.is_in_force(at(99)) && !renewed.is_in_force(at(100)));
    assert!(matches!(on(&renewed, &renew, 100), Err(Conflict::ExceptionOver)));
}

#[test]
fn what_is_ended_stays_so_and_its_identity_is_free_by_somebodys_word_only() {
    let end = |power_removed| ExceptionStep::End { power_removed };
    let ended = on(&granted("1", 10), &end(false), 5).unwrap();
    assert!(ended.stops(at(6)));
    assert!(matches!(on(&ended, &end(false), 6), Err(Conflict::ExceptionOver)));
    let renew = ExceptionStep::Renew {
        expires_at: at(9),
        reason: "still".into(),
    };
    assert!(matches!(on(&ended, &renew, 6), Err(Conflict::ExceptionOver)));
    let free = on(&ended, &end(true), 7).unwrap();
    assert!(!free.stops(at(8)) && !free.is_in_force(at(8)));
    assert_eq!(free.ended_at, Some(at(5)));
    assert!(on(&free, &end(true), 8).is_err());
}

#[test]
fn an_exception_says_everything_and_is_for_90_days_at_most() {
    let day = 86_400;
    let good = exception("1", at(90 * day));
    assert_eq!(good.check(at(0)), Ok(()));
    let wrong = |change: &dyn Fn(&mut Exception)| {
        let mut other = good.clone();
        change(&mut other);
        other.check(at(0)).unwrap_err().field
    };
    assert_eq!(wrong(&|e| e.expires_at = at(90 * day + 1)), "expires_at");
    assert_eq!(wrong(&|e| e.expires_at = at(0)), "expires_at");
    assert_eq!(wrong(&|e| e.compensating_control = " ".into()), "compensating_control");
    assert_eq!(wrong(&|e| e.reason.clear()), "reason");
    assert_eq!(wrong(&|e| e.allows = "x".repeat(REASON_MAX + 1)), "allows");
    assert_eq!(wrong(&|e| e.scopes = ["a b".to_owned()].into()), "scopes");
    let renew = ExceptionStep::Renew {
        expires_at: at(90 * day + 1),
        reason: "still".into(),
    };
    assert_eq!(renew.check(at(0)).unwrap_err().field, "expires_at");
}

#[test]
fn who_is_excepted_is_an_identity_or_an_entry() {
    assert!(matches!("spiffe://td/a".parse(), Ok(Excepted::Identity(_))));
    assert!(matches!("0192-abc".parse(), Ok(Excepted::Entry(_))));
    for wrong in ["", "/a", "spiffe://", "a b", "http://td/a"] {
        assert!(wrong.parse::<Excepted>().is_err(), "{wrong}");
    }
}

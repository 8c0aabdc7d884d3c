//! Requests, grants and windows in the database: the guards that only the database can ask.

use mayfly_model::task::{
    Issuance, Revocation, Stage, StepContext, Task, TaskClass, TaskId, TaskName, TaskStep, Window,
};
use mayfly_model::{Conflict, Delta};
use mayfly_svid::{SpiffeId, Timestamp, WindowId};

use crate::StoreError;
use crate::definition::definition_newest;
use crate::dialect::Database;
use crate::step::{Effect, Refusal};

pub(crate) fn task_list(database: &mut impl Database) -> Result<Vec<Task>, StoreError> {
    let rows = database.query("tasks", "SELECT data FROM tasks ORDER BY id", &[])?;
    rows.iter().map(|row| row.json(0)).collect()
}

/// Tasks of a definition to which something can still happen, of one workload or of all, oldest first.
pub(crate) fn tasks_of(
    database: &mut impl Database,
    name: &TaskName,
    workload: Option<&SpiffeId>,
) -> Result<Vec<Task>, StoreError> {
    let rows = match workload {
        Some(workload) => database.query(
            "tasks",
            "SELECT data FROM tasks WHERE is_live = 1 AND task = ?1 AND workload = ?2 ORDER BY id",
            &[name.as_str().into(), workload.as_str().into()],
        )?,
        None => database.query(
            "tasks",
            "SELECT data FROM tasks WHERE is_live = 1 AND task = ?1 ORDER BY id",
            &[name.as_str().into()],
        )?,
    };
    rows.iter().map(|row| row.json(0)).collect()
}

pub(crate) fn task_submit(
    database: &mut impl Database,
    task: &Task,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    require_definition(database, task)?;
    let request = &task.request;
    let twins = database.query(
        "tasks",
        "SELECT data FROM tasks WHERE is_live = 1 AND task = ?1 AND workload = ?2 AND idempotency_key = ?3",
        &[
            request.task.as_str().into(),
            request.workload.as_str().into(),
            request.idempotency_key.as_str().into(),
        ],
    )?;
    let twin: Option<Task> = twins.first().map(|row| row.json(0)).transpose()?;
    if let Some(twin) = twin {
        return Err(Conflict::TaskExists(twin.into()).into());
    }
    if task_find(database, &task.id)?.is_some() {
        return Err(Conflict::TaskExists(task.clone().into()).into());
    }
    task_write(database, task.clone(), time, effect)
}

pub(crate) fn task_step(
    database: &mut impl Database,
    id: &TaskId,
    step: &TaskStep,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let task = task_find(database, id)?.ok_or(Conflict::TaskNotFound)?;
    task_apply(database, &task, step, time, effect)
}

/// Does a step of `task`, which is what the database holds.
pub(crate) fn task_apply(
    database: &mut impl Database,
    task: &Task,
    step: &TaskStep,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let next_epoch = epoch_now(database)? + 1;
    let next = task
        .apply(step, StepContext { now: time, next_epoch })
        .map_err(Conflict::Task)?;
    match step {
        TaskStep::Open { window, .. } => {
            require_definition(database, task)?;
            require_room(database, task)?;
            keys_note(database, window.id, &window.issuances)?;
        }
        TaskStep::Renew { window, issuance, .. } => {
            keys_note(database, *window, std::slice::from_ref(issuance))?;
        }
        _ => {}
    }
    let revoked: Vec<Revocation> = next
        .windows
        .iter()
        .filter_map(|window| revoked_by(window, next_epoch, time))
        .collect();
    if !revoked.is_empty() {
        let epoch = i64::try_from(next_epoch).expect("a server does not live for 2^63 revocations");
        database.execute("UPDATE store SET epoch = ?1", &[epoch.into()])?;
    }
    task_write(database, next, time, effect)?;
    effect
        .deltas
        .extend(revoked.into_iter().map(|revocation| Delta::Revoked(revocation.into())));
    Ok(())
}

/// Forgets what was over before `before`, and keys that nobody can use any more.
pub(crate) fn task_prune(database: &mut impl Database, before: Timestamp, effect: &mut Effect) -> Result<(), Refusal> {
    let rows = database.query(
        "tasks",
        "SELECT data FROM tasks WHERE is_live = 0 AND changed_at < ?1 ORDER BY id LIMIT 1000",
        &[before.unix().into()],
    )?;
    for row in rows {
        let task: Task = row.json(0)?;
        database.execute("DELETE FROM tasks WHERE id = ?1", &[task.id.as_str().into()])?;
        effect.deltas.push(Delta::TaskGone(task.into()));
    }
    database.execute("DELETE FROM task_keys WHERE not_after < ?1", &[before.unix().into()])?;
    Ok(())
}

pub(crate) fn epoch_now(database: &mut impl Database) -> Result<u64, StoreError> {
    let rows = database.query("store", "SELECT epoch FROM store", &[])?;
    rows.first().map_or(Ok(0), |row| row.unsigned(0))
}

/// What a window's revocations say whose SVIDs are refused from `epoch` on.
fn revoked_by(window: &Window, epoch: u64, time: Timestamp) -> Option<Revocation> {
    let whole_window = window.epoch == Some(epoch) && window.stage != Stage::Suspended;
    let issuances: Vec<&Issuance> = window
        .issuances
        .iter()
        .filter(|issuance| issuance.revoked == Some(epoch))
        .collect();
    let not_after = issuances.iter().map(|issuance| issuance.not_after).max();
    if !whole_window && issuances.is_empty() {
        return None;
    }
    Some(Revocation {
        epoch,
        window_id: window.id,
        serials: issuances.iter().map(|issuance| issuance.serial.clone()).collect(),
        whole_window,
        authority_ids: {
            let mut ids: Vec<String> = issuances.iter().map(|issuance| issuance.authority_id.clone()).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        },
        not_after: not_after.unwrap_or(time),
    })
}

/// Everything that is refused and could still count at some time, by the tasks that are kept.
pub(crate) fn revocations_of(tasks: &[Task]) -> Vec<Revocation> {
    let mut found: Vec<Revocation> = tasks
        .iter()
        .flat_map(|task| &task.windows)
        .flat_map(|window| {
            let mut epochs: Vec<u64> = window
                .issuances
                .iter()
                .filter_map(|issuance| issuance.revoked)
                .collect();
            epochs.extend(window.epoch);
            epochs.sort_unstable();
            epochs.dedup();
            epochs
                .into_iter()
                .filter_map(|epoch| revoked_by(window, epoch, window.closed_at.unwrap_or(window.opened_at)))
        })
        .collect();
    found.sort_unstable_by_key(|revocation| revocation.epoch);
    found
}

fn require_definition(database: &mut impl Database, task: &Task) -> Result<(), Refusal> {
    let name = &task.request.task;
    let in_force = definition_newest(database, name)?.filter(|version| !version.retired);
    match in_force {
        None => Err(Conflict::DefinitionNotFound(name.clone()).into()),
        Some(version) if version.hash != task.request.definition => {
            Err(Conflict::DefinitionChanged(name.clone()).into())
        }
        Some(version) if version.definition.class == TaskClass::Breakglass => {
            let due = tasks_of(database, name, None)?
                .into_iter()
                .find(|other| other.review_due);
            match due {
                Some(other) => Err(Conflict::ReviewDue(other.id).into()),
                None => Ok(()),
            }
        }
        Some(_) => Ok(()),
    }
}

/// How many windows of this task the workload may have, and what has to be settled first.
fn require_room(database: &mut impl Database, task: &Task) -> Result<(), Refusal> {
    let request = &task.request;
    let rows = database.query(
        "tasks",
        "SELECT data FROM tasks WHERE has_window = 1 AND task = ?1 AND workload = ?2",
        &[request.task.as_str().into(), request.workload.as_str().into()],
    )?;
    let holding: Vec<Task> = rows.iter().map(|row| row.json(0)).collect::<Result<_, _>>()?;
    let open = holding.iter().flat_map(Task::live_windows).count();
    if u32::try_from(open).is_ok_and(|open| open >= task.grant.concurrency) {
        return Err(Conflict::TooManyWindows { open }.into());
    }
    if task.grant.settle_before_next {
        // All that is not over: only where the definition asks for it.
        let others = tasks_of(database, &request.task, Some(&request.workload))?;
        let mut windows = others.iter().flat_map(|other| &other.windows);
        if let Some(unsettled) = windows.find(|window| window.stage != Stage::Settled) {
            return Err(Conflict::NotSettled(unsettled.id).into());
        }
    }
    Ok(())
}

/// Each key belongs to one window, and to one SVID of it (I10).
fn keys_note(database: &mut impl Database, window: WindowId, issuances: &[Issuance]) -> Result<(), Refusal> {
    for issuance in issuances {
        let written = database.execute(
            "INSERT INTO task_keys (public_key_sha256, window_id, not_after) VALUES (?1, ?2, ?3)
             ON CONFLICT (public_key_sha256) DO NOTHING",
            &[
                issuance.public_key_sha256.as_str().into(),
                window.to_string().into(),
                issuance.not_after.unix().into(),
            ],
        )?;
        if written == 0 {
            return Err(Conflict::KeyReused.into());
        }
    }
    Ok(())
}

fn task_find(database: &mut impl Database, id: &TaskId) -> Result<Option<Task>, StoreError> {
    let rows = database.query("tasks", "SELECT data FROM tasks WHERE id = ?1", &[id.as_str().into()])?;
    rows.first().map(|row| row.json(0)).transpose()
}

fn task_write(database: &mut impl Database, task: Task, time: Timestamp, effect: &mut Effect) -> Result<(), Refusal> {
    let data = serde_json::to_string(&task).expect("a task has string keys and finite numbers only");
    database.execute(
        "INSERT INTO tasks (id, task, workload, idempotency_key, is_live, has_window, changed_at, data)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (id) DO UPDATE SET is_live = excluded.is_live, has_window = excluded.has_window,
                                        changed_at = excluded.changed_at, data = excluded.data",
        &[
            task.id.as_str().into(),
            task.request.task.as_str().into(),
            task.request.workload.as_str().into(),
            task.request.idempotency_key.as_str().into(),
            i64::from(!task.is_over()).into(),
            i64::from(task.live_windows().next().is_some()).into(),
            time.unix().into(),
            data.into(),
        ],
    )?;
    effect.deltas.push(Delta::TaskPut(task.into()));
    Ok(())
}

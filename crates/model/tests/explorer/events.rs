//! What can happen next. Servers go by what they have seen, which may be old: so messages come late, twice or in another
//! order, and it is for the guards to refuse them.

use mayfly_model::task::{CloseCause, SettledBy, Stage, Window};

use crate::world::{Event, PEOPLE, World};

impl World {
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = vec![];
        if self.now < self.scenario.end() {
            events.push(Event::Tick);
        }
        if self.policy_allows {
            events.push(Event::PolicyTurns);
        }
        for consumer in 0..self.consumers.count() {
            self.of_consumer(consumer, &mut events);
        }
        for (index, server) in self.servers.iter().enumerate() {
            if server.seen != self.store.task {
                events.push(Event::Refresh(index));
            }
            if !self.clock_moved {
                events.push(Event::ClockAhead(index));
                // A request is made at the beginning of the time.
                if self.now > 0 {
                    events.push(Event::ClockBack(index));
                }
            }
            if server.pending.is_some() {
                events.push(Event::Sign(index));
                if self.crashes == 0 {
                    events.push(Event::Crash(index));
                }
                continue; // One call at a time.
            }
            if server.seen.stage == Stage::AwaitingApproval {
                events.extend((0..PEOPLE.len()).map(|person| Event::Approve(index, person)));
            }
            if server.seen.stage == Stage::Armed {
                events.extend([Event::Open(index, 1), Event::Open(index, 2), Event::Expire(index)]);
                // A key for one window more than there may be.
                events.extend((self.scenario.uses > 1).then_some(Event::Open(index, 3)));
            }
            for (number, window) in server.seen.windows.iter().enumerate() {
                self.of_window(index, number, window, &mut events);
            }
        }
        events
    }

    fn of_consumer(&self, consumer: usize, events: &mut Vec<Event>) {
        if !self.consumers.is_connected(consumer) {
            events.push(Event::ComeBack(consumer));
            return;
        }
        if self.consumers.lags(consumer, self.store.epoch) {
            events.push(Event::Learn(consumer));
        }
        if self.vanished == 0 {
            events.push(Event::Vanish(consumer));
        }
        let servers = (0..self.servers.len()).filter(|server| self.consumers.has_news(*server, consumer));
        events.extend(servers.map(|server| Event::Tell(server, consumer)));
    }

    fn of_window(&self, index: usize, number: usize, window: &Window, events: &mut Vec<Event>) {
        let close = |cause| Event::Close(index, number, cause);
        match window.stage {
            Stage::Open => {
                events.extend([
                    Event::Renew(index, number, 2),
                    Event::Renew(index, number, 3),
                    Event::Extend(index, number),
                    Event::Suspend(index, number),
                    close(CloseCause::Completed),
                    close(CloseCause::TimedOut),
                ]);
                if window.issuances.last().is_some_and(|newest| newest.revoked.is_none()) {
                    events.push(Event::RevokeSvid(index, number));
                }
                if self.scenario.heartbeat {
                    events.push(Event::Heartbeat(index, number));
                }
                if window.heartbeat_due.is_some_and(|due| self.clock(index) >= due) {
                    events.push(close(CloseCause::HeartbeatLost));
                }
            }
            Stage::Suspended => events.extend([
                Event::Resume(index, number),
                close(CloseCause::Revoked),
                // What comes too early or too late, or is a fault of who sends it; so below.
                Event::Renew(index, number, 3),
                Event::Extend(index, number),
                Event::Heartbeat(index, number),
            ]),
            Stage::Closing => events.extend([
                Event::Confirm(index, number),
                Event::Renew(index, number, 3),
                Event::Resume(index, number),
                Event::Heartbeat(index, number),
            ]),
            Stage::Closed => events.extend([
                Event::Renew(index, number, 3),
                Event::Resume(index, number),
                Event::AcceptRisk(index, number, 2),
                Event::AcceptRisk(index, number, 3),
                Event::Settle(index, number, SettledBy::Expired),
                Event::Settle(index, number, SettledBy::Enforced),
                Event::GiveUp(index, number),
            ]),
            Stage::RevocationIncomplete => {
                events.extend((0..PEOPLE.len()).map(|person| Event::AcceptRisk(index, number, person)));
                events.extend([
                    Event::Settle(index, number, SettledBy::Expired),
                    Event::Settle(index, number, SettledBy::Enforced),
                ]);
            }
            Stage::Settled => events.extend([
                Event::Renew(index, number, 3),
                Event::Heartbeat(index, number),
                Event::Resume(index, number),
                Event::GiveUp(index, number),
                Event::AcceptRisk(index, number, 2),
                close(CloseCause::Revoked),
            ]),
            _ => {}
        }
    }
}

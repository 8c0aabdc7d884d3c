//! What every back end must do. A back end's tests run all of it by `conformance::suite!(fixture)`, where `fixture` makes a
//! fresh database that can be opened again.
//!
//! Each case ends with [`World::finish`]: what the store loads after a restart equals what memory made of the deltas, and
//! the log has no gaps.

mod agents;
mod authorities;
mod batches;
mod bundles;
mod entries;
mod exceptions;
mod privates;
mod random;
mod tasks;
mod world;

pub(crate) use {
    agents::*, authorities::*, batches::*, bundles::*, entries::*, exceptions::*, privates::*, random::*, tasks::*,
    world::*,
};

/// The tests of one back end.
macro_rules! suite {
    ($fixture:expr) => {
        $crate::conformance::suite!($fixture,
            an_entry_id_and_a_similar_entry_are_taken_once
            an_entry_update_changes_what_it_states_and_counts_up
            an_entry_update_is_checked_and_refused_whole
            an_entry_that_moves_is_seen_at_both_places
            an_entry_is_not_expired_by_who_has_not_seen_it_move
            an_entry_that_is_created_again_has_another_creation_time
            similar_is_told_by_the_set_of_selectors
            attesting_again_keeps_nothing_but_a_ban
            a_join_token_is_used_once_before_its_end
            a_refused_agent_does_not_use_up_the_token
            a_renewed_svid_counts_when_it_was_seen
            an_agent_renews_by_an_svid_that_it_still_has
            a_banned_agent_has_nothing_and_gets_nothing
            a_token_brings_its_alias_when_it_is_used_and_eviction_takes_it
            a_token_of_the_same_text_brings_its_own_alias
            expired_tokens_are_pruned
            an_authority_enters_the_bundle_before_it_signs
            one_authority_is_active_and_the_last_one_becomes_old
            an_authority_is_pruned_after_its_last_second
            appended_authorities_keep_what_is_there
            foreign_bundles_are_created_updated_and_set
            the_own_bundle_cannot_be_touched_as_a_foreign_one
            an_entry_federates_with_bundles_that_are_there
            a_bundle_in_use_is_deleted_by_the_mode_that_was_chosen
            a_batch_takes_one_revision_and_none_if_nothing_happened
            a_conflict_leaves_nothing_and_disturbs_nobody
            the_log_tells_who_did_what_without_gaps
            intents_and_outcomes_are_in_the_log
            renewals_and_reports_are_nothing_to_watch
            history_belongs_to_one_database
            a_definition_has_versions_and_a_new_one_supersedes_what_waits
            one_key_is_one_live_request_and_one_window
            an_end_has_an_epoch_and_what_it_refuses_is_known_after_a_restart
            break_glass_waits_for_its_review_and_what_is_over_is_forgotten
            a_proposal_is_decided_once_by_somebody_else_and_does_what_it_says
            an_exception_goes_from_grant_to_end_and_the_log_says_so
            an_exception_that_was_replaced_is_not_renewed_whenever_it_was_asked_for
            an_exception_of_an_entry_is_bound_to_what_it_gives
            a_proposed_exception_is_granted_with_its_approval
            what_is_private_is_beside_the_log_and_the_same_value_has_the_same_commitment
            what_was_erased_is_not_known_again_by_its_old_commitment
            what_is_too_large_for_an_entry_is_beside_it
            random_changes_do_what_their_guards_say_and_survive_a_restart
        );
    };
    ($fixture:expr, $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::conformance::$case(&$fixture);
            }
        )*
    };
}
pub(crate) use suite;

//! The names of the schema, and values for Cedar. The only place that spells them in Rust.

use std::sync::LazyLock;
use std::time::Duration;

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression, Schema};
use mayfly_svid::Timestamp;

/// The text of the schema.
pub(crate) const SCHEMA: &str = include_str!("../schema.cedarschema");

/// The schema, parsed once.
pub(crate) static SCHEMA_PARSED: LazyLock<Schema> = LazyLock::new(|| {
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).expect("our own text; a test parses it");
    schema
});

macro_rules! entity_types {
    ($($(#[$doc:meta])* $variant:ident),* $(,)?) => {
        /// Types of entities.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Kind { $($variant),* }

        impl Kind {
            fn name(self) -> &'static EntityTypeName {
                static NAMES: LazyLock<Vec<EntityTypeName>> = LazyLock::new(|| {
                    [$(stringify!($variant)),*]
                        .iter()
                        .map(|name| format!("Mayfly::{name}").parse().expect("an identifier"))
                        .collect()
                });
                &NAMES[self as usize]
            }
        }
    };
}

entity_types!(
    Team,
    Group,
    Human,
    Node,
    Workload,
    TaskDefinition,
    Window,
    Parameters,
    Access,
    Rpc
);

macro_rules! actions {
    ($($variant:ident $text:literal),* $(,)?) => {
        /// What is asked of Cedar.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Action { $($variant),* }

        impl Action {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant),*];

            pub(crate) fn text(self) -> &'static str {
                [$($text),*][self as usize]
            }
        }
    };
}

actions!(
    Request "request", Open "open", Renew "renew", Extend "extend", Approve "approve", Revoke "revoke",
    EditDefinition "edit_definition", EditPolicy "edit_policy", Call "call",
);

impl Action {
    /// Whether it is in the group `use`.
    pub(crate) fn is_use(self) -> bool {
        matches!(self, Self::Request | Self::Open | Self::Renew | Self::Extend)
    }

    pub(crate) fn uid(self) -> EntityUid {
        static UIDS: LazyLock<Vec<EntityUid>> = LazyLock::new(|| {
            let kind: EntityTypeName = "Mayfly::Action".parse().expect("an identifier");
            let uid = |action: &Action| EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(action.text()));
            Action::ALL.iter().map(uid).collect()
        });
        UIDS[self as usize].clone()
    }
}

/// The actions of the group `use`, for the entities of a decision. Without them `action in Mayfly::Action::"use"` is
/// false, and most guards are silent. Other actions are in no group.
pub(crate) fn uses() -> impl Iterator<Item = Entity> {
    static ENTITIES: LazyLock<Vec<Entity>> = LazyLock::new(|| {
        let actions = SCHEMA_PARSED.action_entities().expect("our own schema");
        let is_use = |uid: &EntityUid| Action::ALL.iter().any(|action| action.is_use() && action.uid() == *uid);
        actions.into_iter().filter(|action| is_use(&action.uid())).collect()
    });
    ENTITIES.iter().cloned()
}

pub(crate) fn uid(kind: Kind, id: impl AsRef<str>) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.name().clone(), EntityId::new(id))
}

pub(crate) fn reference(kind: Kind, id: impl AsRef<str>) -> RestrictedExpression {
    RestrictedExpression::new_entity_uid(uid(kind, id))
}

pub(crate) fn text(value: impl Into<String>) -> RestrictedExpression {
    RestrictedExpression::new_string(value.into())
}

pub(crate) fn flag(value: bool) -> RestrictedExpression {
    RestrictedExpression::new_bool(value)
}

pub(crate) fn number(value: impl Into<i64>) -> RestrictedExpression {
    RestrictedExpression::new_long(value.into())
}

/// `at`, which [`crate::derive::out_of_range`] found to be of this era.
pub(crate) fn instant(at: Timestamp) -> RestrictedExpression {
    RestrictedExpression::new_datetime(at.to_string())
}

/// In whole seconds, which all durations here have.
pub(crate) fn duration(duration: Duration) -> RestrictedExpression {
    RestrictedExpression::new_duration(format!("{}s", duration.as_secs()))
}

pub(crate) fn set<T>(
    items: impl IntoIterator<Item = T>,
    of: impl Fn(T) -> RestrictedExpression,
) -> RestrictedExpression {
    RestrictedExpression::new_set(items.into_iter().map(of))
}

/// Attributes by name.
pub(crate) type Attributes = Vec<(&'static str, RestrictedExpression)>;

pub(crate) fn record(attributes: Attributes) -> Result<RestrictedExpression, String> {
    let fields = attributes.into_iter().map(|(key, value)| (key.to_owned(), value));
    RestrictedExpression::new_record(fields).map_err(|e| e.to_string())
}

pub(crate) fn entity(
    uid: EntityUid,
    attributes: Attributes,
    parents: impl IntoIterator<Item = EntityUid>,
) -> Result<Entity, String> {
    let attributes = attributes.into_iter().map(|(key, value)| (key.to_owned(), value));
    Entity::new_with_tags(uid, attributes, parents, []).map_err(|e| e.to_string())
}

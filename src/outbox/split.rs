//! Lists that the provider refuses because of numbers in them, and the parts that are sent on.

use serde::Serialize;
use uuid::Uuid;

use super::{Outbox, OutboxError};
use crate::splitting::Family;

/// More refused numbers are not counted: what is decided by them is decided by fewer.
const COUNTED: i64 = 64;

#[derive(sqlx::FromRow)]
struct FamilyRow {
    is_part: bool,
    size: i32,
    has_accepted: bool,
    refused_alone: i64,
}

/// A part of a list, as a person sees it.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the fields are the columns of sms_outbox.jobs, which its comments explain, and how many numbers there are"
)]
pub struct PartRow {
    pub id: Uuid,
    pub status: String,
    pub recipient_count: i32,
    pub order_id: Option<String>,
    pub error_class: Option<String>,
    pub error_code: Option<i32>,
}

impl Outbox {
    /// What is known about the list that a refused job is, or is a part of.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn family(&self, job: Uuid) -> Result<Family, OutboxError> {
        let row: Option<FamilyRow> = self
            .call("looking at the parts of a list", async |connection| {
                sqlx::query_as(include_str!("family.sql"))
                    .bind(job)
                    .bind(COUNTED)
                    .persistent(self.persistent())
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        // Pruned in this moment: whatever is recorded now comes too late anyway.
        Ok(row.map_or_else(Family::default, |row| Family {
            size: usize::try_from(row.size).unwrap_or(0),
            is_part: row.is_part,
            has_accepted: row.has_accepted,
            refused_alone: usize::try_from(row.refused_alone).unwrap_or(0),
        }))
    }

    /// Up to `at_most` parts of a list, those that were cut themselves left out.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn parts_of(&self, list: Uuid, at_most: i64) -> Result<Vec<PartRow>, OutboxError> {
        self.call("reading the parts of a list", async |connection| {
            sqlx::query_as(include_str!("parts_of.sql"))
                .bind(list)
                .bind(at_most)
                .persistent(false)
                .fetch_all(connection)
                .await
        })
        .await
    }
}

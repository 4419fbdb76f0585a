/*
 * The audit of two logs: what is true of both passes in silence, each contradiction is told.
 */
#include <stdio.h>
#include <string.h>

#include <criterion/criterion.h>

#include "format/record.h"
#include "look/audit.h"

enum {
    GENERATION = 3
};

static struct ql_audit audit;
static char told[1024]; /* the last finding */
static uint8_t bytes[4096];
static uint64_t position;

static void
on_finding(void *context, const char *log, uint64_t at, const char *text)
{
    (void)context;
    (void)at;
    (void)snprintf(told, sizeof(told), "%s: %s", log, text);
}

static void
setup(void)
{
    ql_audit_init(&audit);
    audit.on_finding = on_finding;
    audit.generation = GENERATION;
}

static void
teardown(void)
{
    ql_audit_fini(&audit);
}

TestSuite(look_audit, .init = setup, .fini = teardown);

static void
subject(uint32_t id, const char *name)
{
    struct ql_digest digest = {
        .kind = QL_RECORD_SUBJECT,
        .subject_id = id,
        .position = position += 4096,
        .name = q_bytes_from_text(name),
    };
    cr_assert_eq(ql_audit_message(&audit, &digest), Q_OK);
}

static void
batch(uint32_t id, uint64_t first, uint32_t count, uint64_t generation)
{
    struct ql_digest digest = {
        .kind = QL_RECORD_BATCH,
        .subject_id = id,
        .position = position += 4096,
        .generation = generation,
        .sequence = first,
        .count = count,
    };
    cr_assert_eq(ql_audit_message(&audit, &digest), Q_OK);
}

static void
action(unsigned kind, uint32_t size, uint64_t generation)
{
    struct qlog_record record = {
        .frame = { position += 4096 },
        .kind = kind,
        .generation = generation,
        .bytes = q_bytes_from(bytes, size),
    };
    cr_assert_eq(ql_audit_action(&audit, &record), Q_OK);
}

static void
group(uint32_t id, const char *name)
{
    struct ql_group_record record = {
        .group_id = id,
        .subject = q_bytes_from_text("orders"),
        .name = q_bytes_from_text(name),
    };
    cr_assert_eq(ql_settings_complete(&record.settings), Q_OK);
    ql_group_record_encode(&record, bytes);
    action(QL_RECORD_GROUP, ql_group_record_size(&record), GENERATION);
}

static void
join(uint32_t group_id)
{
    struct ql_join_record record = { .group_id = group_id, .name = q_bytes_from_text("c") };
    ql_join_record_encode(&record, bytes);
    action(QL_RECORD_JOIN, ql_join_record_size(&record), GENERATION);
}

static void
pull(uint64_t pull_sequence, uint64_t sequence, uint32_t count, uint64_t generation)
{
    struct ql_pull_record record = {
        .first_pull_sequence = pull_sequence,
        .cursor = sequence + count,
        .run_count = 1,
    };
    struct ql_pull_run run = { .sequence = sequence, .count = count, .filters = 1 };
    ql_pull_record_encode(&record, &run, NULL, bytes);
    action(QL_RECORD_PULL, ql_pull_record_size(1, 0), generation);
}

static void
ack(uint64_t first, uint64_t last)
{
    struct ql_ack_record record = { .range_count = 1 };
    struct qlog_range range = { first, last };
    ql_ack_record_encode(&record, &range, bytes);
    action(QL_RECORD_ACK, ql_ack_record_size(1), GENERATION);
}

/* Ten messages, a group, a consumer. */
static void
a_store(void)
{
    subject(0, "orders");
    batch(0, 0, 6, GENERATION);
    batch(0, 6, 4, GENERATION);
    group(0, "g");
    join(0);
}

static void
assert_told(const char *text)
{
    cr_assert_gt(audit.findings, 0, "nothing was found; it should be: %s", text);
    cr_assert_not_null(strstr(told, text), "%s is not in: %s", text, told);
}

static void
assert_silent(void)
{
    ql_audit_end(&audit);
    cr_assert_eq(audit.findings, 0, "%s", told);
}

Test(look_audit, what_is_true_passes)
{
    a_store();
    pull(0, 0, 10, GENERATION);
    ack(0, 3);
    assert_silent();
    cr_assert_eq(audit.subjects[0]->messages, 10);
    cr_assert_eq(audit.groups[0].group->consumers[0]->held_messages, 6);
}

Test(look_audit, a_sequence_twice)
{
    a_store();
    batch(0, 9, 1, GENERATION);
    assert_told("message: subject 0: sequence 9 is given twice, 10 is next");
}

Test(look_audit, sequences_that_are_missing)
{
    a_store();
    batch(0, 12, 1, GENERATION);
    assert_told("message: subject 0: sequences 10 to 11 are missing");
}

Test(look_audit, power_loss_explains_a_gap)
{
    a_store();
    batch(0, 12, 1, GENERATION + 1);
    assert_silent();
}

Test(look_audit, damage_explains_a_gap)
{
    a_store();
    ql_audit_damage(&audit, false, position);
    batch(0, 12, 1, GENERATION);
    assert_silent();
}

Test(look_audit, a_batch_nobody_named)
{
    batch(7, 0, 1, GENERATION);
    assert_told("message: a batch of subject 7, which its segment does not name");
}

Test(look_audit, a_batch_named_in_another_segment_only)
{
    a_store();
    struct ql_digest digest = {
        .kind = QL_RECORD_BATCH,
        .position = position + 4096,
        .segment = position + 4096,
        .generation = GENERATION,
        .sequence = 10,
        .count = 1,
    };
    cr_assert_eq(ql_audit_message(&audit, &digest), Q_OK);
    assert_told("which its segment does not name");
}

Test(look_audit, an_id_with_two_names)
{
    a_store();
    subject(0, "prices");
    assert_told("message: subject 0 is \"prices\" here, and was \"orders\" before");
}

Test(look_audit, the_logs_name_a_subject_differently)
{
    subject(0, "prices");
    group(0, "g");
    assert_told("action: subject 0 is \"orders\" here, and was \"prices\" before");
}

Test(look_audit, an_action_on_messages_that_never_were)
{
    a_store();
    pull(0, 0, 11, GENERATION);
    assert_told("speaks of sequence 10 of \"orders\", which has 10");
}

Test(look_audit, power_loss_explains_an_action_on_lost_messages)
{
    a_store();
    pull(0, 0, 11, GENERATION - 1);
    assert_silent();
}

Test(look_audit, a_running_store_may_be_ahead)
{
    audit.live = true;
    a_store();
    pull(0, 0, 11, GENERATION);
    assert_silent();
}

Test(look_audit, an_ack_of_what_was_never_handed_out)
{
    a_store();
    pull(0, 0, 5, GENERATION);
    ack(5, (uint64_t)GENERATION << 40);
    assert_told("were never handed out");
}

Test(look_audit, an_action_of_no_group)
{
    subject(0, "orders");
    join(4);
    assert_told("action: JOIN of group 4, which was never made");
}

Test(look_audit, a_dropped_head_states_the_group_later)
{
    audit.action_first = 4096;
    subject(0, "orders");
    batch(0, 0, 6, GENERATION);
    join(0);
    group(0, "g");
    assert_silent();
}

Test(look_audit, a_dropped_head_that_never_states_the_group)
{
    audit.action_first = 4096;
    join(2);
    ql_audit_end(&audit);
    assert_told("group 2, which is neither made nor stated");
}

Test(look_audit, an_action_that_does_not_follow)
{
    a_store();
    pull(0, 0, 6, GENERATION);
    pull(3, 6, 4, GENERATION);
    assert_told("PULL: PULL gives a pull sequence twice");
}

Test(look_audit, a_message_in_two_hands)
{
    a_store();
    pull(0, 0, 6, GENERATION);
    struct ql_pull_record record = { .first_pull_sequence = 6, .cursor = 6, .run_count = 1 };
    struct ql_pull_run run = { .sequence = 5, .count = 1, .filters = 1 };
    ql_pull_record_encode(&record, &run, NULL, bytes);
    action(QL_RECORD_PULL, ql_pull_record_size(1, 0), GENERATION);
    ql_audit_end(&audit);
    assert_told("sequence 5 is in two hands");
}

Test(look_audit, an_id_that_is_made_up)
{
    batch(UINT32_MAX, 0, 1, GENERATION);
    assert_told("which no store gives out");
}

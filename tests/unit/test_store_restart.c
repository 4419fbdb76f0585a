#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/store.h"
#include "store_fixture.h"

static struct store_fixture fixture;

static void
setup(void)
{
    fixture_open(&fixture);
}

static void
teardown(void)
{
    fixture_close(&fixture);
}

TestSuite(store_restart, .init = setup, .fini = teardown, .timeout = 60);

static void
publish_many(unsigned from, unsigned to)
{
    char bodies[512];
    for (unsigned i = from; i < to; i++) {
        int used = 0;
        for (unsigned j = 0; j < 10; j++)
            used += snprintf(
                bodies + used, sizeof(bodies) - (size_t)used, "%s%u-%u", j > 0 ? "," : "", i, j);
        uint64_t first;
        cr_assert_eq(fixture_publish(&fixture, "orders", bodies, NULL, &first), Q_OK);
        cr_assert_eq(first, (uint64_t)i * 10);
    }
}

/* Pull and ack everything there is; the sequences are exactly [next, end). */
static void
consume_all(const char *group, uint64_t next, uint64_t end)
{
    uint64_t session = fixture_join(&fixture, group, "c", NULL);
    cr_assert_neq(session, 0);
    uint64_t received = 0;
    for (;;) {
        struct pulled pulled = fixture_pull(&fixture, group, "c", session, 1000, received);
        cr_assert_eq(pulled.err, Q_OK, "%s", q_err_name(pulled.err));
        if (pulled.run_count == 0) break;
        for (uint32_t i = 0; i < pulled.run_count; i++) {
            struct qlog_run run = pulled.runs[i];
            cr_assert_eq(run.sequence, next);
            next += run.count;
            received = run.pull_sequence + run.count;
            cr_assert_eq(
                fixture_ack(&fixture, group, "c", session, run.pull_sequence, received - 1), Q_OK);
        }
    }
    cr_assert_eq(next, end);
}

/* After a clean stop everything is there, and nothing was cut. */
Test(store_restart, clean_stop)
{
    publish_many(0, 30);
    consume_all("g", 0, 300);
    fixture_reopen(&fixture);
    cr_assert_eq(fixture.store->home->env.generation, 0, "a clean stop raises no generation");
    publish_many(30, 40);
    consume_all("g", 300, 400);
    consume_all("h", 0, 400);
    cr_assert_eq(fixture.events[QLOG_EVENT_TORN_TAIL], 0);
}

/* After kill -9 everything acknowledged is there, progress too, and pull sequences go on far above
 * what may have been given out. */
Test(store_restart, unclean_stop)
{
    publish_many(0, 30);
    consume_all("g", 0, 300);
    publish_many(30, 31);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    struct pulled before = fixture_pull(&fixture, "g", "c", session, 1000, 300);
    cr_assert_eq(before.run_count, 1);
    fixture_crash(&fixture);
    cr_assert_eq(fixture.store->home->env.generation, 1);
    publish_many(31, 32);
    session = fixture_join(&fixture, "g", "c", NULL);
    struct pulled again = fixture_pull(&fixture, "g", "c", session, 1000, 0);
    cr_assert_str_eq(again.text, before.text, "un-acked messages come again");
    cr_assert_eq(again.runs[0].pull_sequence, before.runs[0].pull_sequence);
    struct pulled more = fixture_pull(
        &fixture, "g", "c", session, 1000, again.runs[0].pull_sequence + again.runs[0].count);
    cr_assert_eq(more.runs[0].pull_sequence, 1ull << 40);
    cr_assert_eq(more.runs[0].sequence, 310);
}

/* A session survives the restart of the store: its consumer goes on where it was. */
Test(store_restart, sessions_survive)
{
    publish_many(0, 2);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 5, 0).run_count, 1);
    fixture_crash(&fixture);
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 4), Q_OK);
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 100, 5);
    cr_assert_eq(pulled.runs[0].sequence, 5);
}

/* Across many segments and many crashes, every message is there once, in order. */
Test(store_restart, many_segments_many_crashes)
{
    unsigned next = 0;
    for (unsigned round = 0; round < 8; round++) {
        publish_many(next, next + 60);
        next += 60;
        if (round % 2 == 0)
            fixture_crash(&fixture);
        else
            fixture_reopen(&fixture);
    }
    cr_assert_gt(fixture.events[QLOG_EVENT_ROLLED], 5);
    consume_all("g", 0, (uint64_t)next * 10);
    fixture_crash(&fixture);
    consume_all("g", (uint64_t)next * 10, (uint64_t)next * 10);
    consume_all("late", 0, (uint64_t)next * 10);
}

/* Groups, filters and the dead survive; a consumer forgotten is forgotten. */
Test(store_restart, groups_survive)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a", "red", NULL), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "orders", "b", "blue", NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", "blue");
    cr_assert_str_eq(fixture_pull(&fixture, "g", "c", session, 10, 0).text, "b");
    fixture_crash(&fixture);
    q_clock_manual_advance_ns(&fixture.clock, 31ull * Q_NS_PER_S);
    fixture_settle(&fixture);
    fixture_crash(&fixture);
    session = fixture_join(&fixture, "g", "d", "blue");
    struct pulled pulled = fixture_pull(&fixture, "g", "d", session, 10, 0);
    cr_assert_str_eq(pulled.text, "b");
    cr_assert_eq(pulled.runs[0].attempt, 2);
    q_clock_manual_advance_ns(&fixture.clock, 700ull * Q_NS_PER_S);
    fixture_settle(&fixture);
    q_clock_manual_advance_ns(&fixture.clock, 700ull * Q_NS_PER_S);
    fixture_settle(&fixture);
    cr_assert_null(ql_group_consumer_named(fixture.store->groups[0], q_bytes_from_text("c")));
    fixture_crash(&fixture);
    cr_assert_null(ql_group_consumer_named(fixture.store->groups[0], q_bytes_from_text("c")));
}

/* What a start decided is a line of the recovery log, one for each decision; an orderly stop leaves
 * nothing to decide. */
Test(store_restart, decisions_are_written_down)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/recovery.log", fixture.directory);
    publish_many(0, 30);
    fixture_reopen(&fixture);
    cr_assert_neq(access(path, F_OK), 0);
    publish_many(30, 40);
    fixture_crash(&fixture);
    fixture_crash(&fixture);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    char line[1024];
    unsigned starts = 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        if (line[0] == ' ' || line[0] == '\n') continue;
        cr_assert_eq(strncmp(line, "{\"time\":\"", 9), 0, "%s", line);
        cr_assert_eq(strcmp(line + strlen(line) - 2, "}\n"), 0, "%s", line);
        if (strstr(line, "\"event\":\"RECOVERED\"") != NULL) starts++;
    }
    cr_assert_eq(starts, 2);
    (void)fclose(file);
    /* It is nobody's business to start for its sake. */
    cr_assert_eq(remove(path), 0);
    cr_assert_eq(mkdir(path, 0700), 0);
    fixture_crash(&fixture);
    cr_assert_eq(fixture.events[QLOG_EVENT_UNLOGGED], 1);
}

static void
trim(uint64_t messages_before, uint64_t actions_before)
{
    struct qlog_trim trim = {
        .request = { .kind = QLOG_TRIM },
        .messages_before = { messages_before },
        .actions_before = { actions_before },
    };
    cr_assert_eq(fixture_run(&fixture, &trim.request), Q_OK);
}

static void
damage(const char *name, long at, size_t size)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/%s", fixture.directory, name);
    FILE *file = fopen(path, "r+");
    cr_assert_not_null(file);
    cr_assert_eq(fseek(file, at, SEEK_SET), 0);
    for (size_t i = 0; i < size; i++)
        cr_assert_neq(fputc(0xdb, file), EOF);
    cr_assert_eq(fclose(file), 0);
}

static void
damage_closed(const char *name, long at, size_t size)
{
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    damage(name, at, size);
    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
}

static void
on_ignored(struct qlog_request *request, enum q_err err)
{
    (void)request;
    cr_assert_eq(err, Q_OK);
}

/* When both heads are dropped, what they said about subjects, sequences, groups, consumers and
 * what those hold is still known after a restart: the state is the same to the bit. */
Test(store_restart, state_survives_its_log)
{
    publish_many(0, 40);
    cr_assert_eq(fixture_publish(&fixture, "once", "x,y,z", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "held", "c", NULL);
    cr_assert_eq(fixture_pull(&fixture, "held", "c", session, 7, 0).unacked, 7);
    cr_assert_eq(fixture_ack(&fixture, "held", "c", session, 2, 3), Q_OK);
    uint64_t dead = fixture_join(&fixture, "held", "dead", NULL);
    cr_assert_eq(fixture_pull(&fixture, "held", "dead", dead, 5, 0).unacked, 5);
    cr_assert_neq(fixture_join(&fixture, "filtered", "c", "red"), 0);
    q_clock_manual_advance_ns(&fixture.clock, 31ull * Q_NS_PER_S);
    fixture_settle(&fixture);
    session = fixture_join(&fixture, "held", "c", NULL);
    consume_all("done", 0, 400);
    publish_many(40, 140);
    consume_all("done", 400, 1400);
    for (unsigned i = 0; i < 70; i++)
        consume_all("done", 1400, 1400);

    uint64_t before = ql_store_state_hash(fixture.store);
    cr_assert_gt(fixture.store->messages->segments.count, 1);
    cr_assert_gt(fixture.store->actions->segments.count, 1);
    trim(0, UINT64_MAX);
    cr_assert_eq(fixture.store->actions->segments.count, 1);
    cr_assert_eq(ql_store_state_hash(fixture.store), before);
    fixture_reopen(&fixture);
    cr_assert_eq(ql_store_state_hash(fixture.store), before);
    fixture_crash(&fixture);

    /* Without the messages, what was in hand of them is gone, at once and after a restart alike. */
    trim(UINT64_MAX, UINT64_MAX);
    cr_assert_eq(fixture.store->messages->segments.count, 1);
    cr_assert_eq(fixture.store->groups[0]->pending_messages, 0);
    before = ql_store_state_hash(fixture.store);
    fixture_reopen(&fixture);
    cr_assert_eq(ql_store_state_hash(fixture.store), before);
    uint64_t first;
    cr_assert_eq(fixture_publish(&fixture, "once", "w", NULL, &first), Q_OK);
    cr_assert_eq(first, 3, "a subject's next sequence outlives all of its messages");
    before = ql_store_state_hash(fixture.store);
    trim(UINT64_MAX, UINT64_MAX);
    trim(UINT64_MAX, UINT64_MAX);
    fixture_crash(&fixture);
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 0);
    cr_assert_eq(fixture.events[QLOG_EVENT_TORN_TAIL], 0);
}

enum {
    HOLES_BATCHES = 240,
    HOLES_PULL = 500,
    HOLES = HOLES_BATCHES * 100 / 2
};

/* Pull everything; ack every second message. */
static void
consume_every_second(const char *group, const char *consumer, uint64_t *session, uint64_t to)
{
    *session = fixture_join(&fixture, group, consumer, NULL);
    uint64_t received = 0;
    while (received < to) {
        struct pulled pulled =
            fixture_pull(&fixture, group, consumer, *session, HOLES_PULL, received);
        cr_assert_eq(pulled.err, Q_OK);
        struct qlog_range ranges[HOLES_PULL / 2];
        for (uint32_t i = 0; i < HOLES_PULL / 2; i++)
            ranges[i] = (struct qlog_range){ received + 2 * i, received + 2 * i };
        struct qlog_ack ack = {
            .request = { .kind = QLOG_ACK },
            .who = {
                .subject = q_bytes_from_text(fixture_subject),
                .group = q_bytes_from_text(group),
                .consumer = q_bytes_from_text(consumer),
                .session = *session,
            },
            .ranges = ranges,
            .range_count = HOLES_PULL / 2,
        };
        cr_assert_eq(fixture_run(&fixture, &ack.request), Q_OK);
        received += HOLES_PULL;
    }
}

static void
publish_for_holes(void)
{
    char bodies[256];
    for (unsigned i = 0; i < 100; i++)
        memcpy(bodies + (size_t)2 * i, "x,", 2);
    bodies[199] = '\0';
    for (unsigned i = 0; i < HOLES_BATCHES; i++)
        cr_assert_eq(fixture_publish(&fixture, "orders", bodies, NULL, NULL), Q_OK);
}

/* A group that has more in hand than one append of the action log holds is stated all the same: the
 * heads of the logs go, and the state is the same to the bit. */
Test(store_restart, a_group_with_many_holes_is_stated)
{
    fixture.options.window_messages_max = HOLES;
    fixture_reopen(&fixture);
    publish_for_holes();
    uint64_t session;
    consume_every_second("holes", "dies", &session, HOLES);
    consume_every_second("holes", "c", &session, HOLES);
    /* What a dead consumer had is pending; the other one holds what it has. */
    for (unsigned i = 0; i < 4; i++) {
        q_clock_manual_advance_ns(&fixture.clock, 10ull * Q_NS_PER_S);
        cr_assert_neq(fixture_join(&fixture, "holes", "c", NULL), 0);
    }
    const struct ql_group *group = fixture.store->groups[0];
    cr_assert_eq(group->pending.count + ql_group_consumer(group, 1)->held.count, HOLES);
    cr_assert_eq(group->pending.count, HOLES / 2);
    consume_all("done", 0, (uint64_t)HOLES * 2);
    for (unsigned i = 0; i < 70; i++)
        consume_all("done", (uint64_t)HOLES * 2, (uint64_t)HOLES * 2);
    uint64_t before = ql_store_state_hash(fixture.store);
    uint64_t first = fixture.store->actions->segments.segments[0]->base;
    trim(0, UINT64_MAX);
    cr_assert_gt(fixture.store->actions->segments.segments[0]->base, first);
    cr_assert_eq(ql_store_state_hash(fixture.store), before);
    fixture_reopen(&fixture);
    cr_assert_eq(ql_store_state_hash(fixture.store), before);
    /* By rounds, too, and the start reads from there on. */
    q_clock_manual_advance_ns(&fixture.clock, 70ull * Q_NS_PER_S);
    fixture_settle(&fixture);
    before = ql_store_state_hash(fixture.store);
    fixture_reopen(&fixture);
    cr_assert_eq(ql_store_state_hash(fixture.store), before);
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 0);
}

static void
apply_part(struct ql_group **group, const struct ql_action *part)
{
    struct ql_record_walk walk = { .records = q_bytes_from(part->record, part->record_size) };
    struct ql_record record;
    uint32_t count = 0;
    while (ql_record_next(&walk, &record) == Q_OK) {
        struct ql_group_record made;
        struct ql_consumer_record consumer;
        struct ql_ranges_record ranges;
        struct ql_cursor_record cursor;
        enum q_err err = Q_E_CORRUPT;
        count++;
        if (record.kind == QL_RECORD_GROUP) {
            cr_assert_eq(ql_group_record_decode(record.bytes, &made), Q_OK);
            err = ql_group_new(&made, fixture.store->index.subjects[0], NULL, group);
        } else if (record.kind == QL_RECORD_CONSUMER) {
            cr_assert_eq(ql_consumer_record_decode(record.bytes, &consumer), Q_OK);
            err = ql_group_apply_consumer(*group, &consumer);
        } else if (record.kind == QL_RECORD_CURSOR) {
            err = ql_cursor_record_decode(record.bytes, &cursor);
            (void)!ql_group_apply_cursor(*group, &cursor);
        } else {
            cr_assert_eq(ql_ranges_record_decode(record.bytes, &ranges), Q_OK);
            err = record.kind == QL_RECORD_HELD ? ql_group_apply_held(*group, &ranges)
                                                : ql_group_apply_pending(*group, &ranges);
        }
        cr_assert_eq(err, Q_OK);
    }
    cr_assert_eq(count, part->record_count);
}

/* Messages in somebody's hands below `sequence`. */
static uint64_t
in_hand_below(const struct ql_group *group, uint64_t sequence)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < group->pending.count; i++)
        if (ql_span_at(&group->pending, i)->sequence < sequence)
            count += ql_span_at(&group->pending, i)->count;
    for (uint32_t i = 0; i < group->consumer_count; i++)
        for (uint32_t j = 0; j < group->consumers[i]->held.count; j++) {
            const struct ql_range_item *item = ql_span_at(&group->consumers[i]->held, j);
            if (item->sequence < sequence) count += item->count;
        }
    return count;
}

/* Whoever has lost the rest of a long statement has a group that has not gone that far: nothing is
 * passed over. */
Test(store_restart, a_part_of_a_statement_passes_nothing_over)
{
    fixture.options.window_messages_max = HOLES;
    fixture_reopen(&fixture);
    publish_for_holes();
    uint64_t session;
    consume_every_second("holes", "c", &session, HOLES);
    consume_every_second("holes", "d", &session, HOLES);
    struct ql_group *group = fixture.store->groups[0];
    struct ql_action *part;
    cr_assert_eq(ql_state_group(fixture.store, group, &part), Q_OK);
    cr_assert_not_null(part->next, "it takes more than one append");
    struct ql_group *stated = NULL;
    while (part != NULL) {
        struct ql_action *next = part->next;
        apply_part(&stated, part);
        ql_group_check(stated);
        cr_assert_eq(stated->cursor == group->cursor, next == NULL);
        cr_assert_eq(in_hand_below(stated, UINT64_MAX), in_hand_below(group, stated->cursor));
        ql_action_drop(part);
        part = next;
    }
    cr_assert_eq(ql_group_state_hash(stated), ql_group_state_hash(group));
    ql_group_free(stated);
}

/* Two trims at once state everything twice, and the store opens all the same. */
Test(store_restart, two_trims_at_once)
{
    publish_many(0, 40);
    consume_all("g", 0, 400);
    for (unsigned i = 0; i < 70; i++)
        consume_all("g", 400, 400);
    struct qlog_trim first = { .request = { .kind = QLOG_TRIM, .done = on_ignored } };
    first.actions_before.value = UINT64_MAX;
    struct qlog_trim second = first;
    cr_assert_eq(qlog_store_submit(fixture.store, &first.request), Q_OK);
    cr_assert_eq(qlog_store_submit(fixture.store, &second.request), Q_OK);
    fixture_settle(&fixture);
    cr_assert_eq(fixture.store->actions->segments.count, 1);
    uint64_t before = ql_store_state_hash(fixture.store);
    fixture_reopen(&fixture);
    cr_assert_eq(ql_store_state_hash(fixture.store), before);
}

/* Sequences that power loss took from groups' hands are never given out again: a later message
 * would be taken for one that was handed out before. */
Test(store_restart, lost_sequences_are_not_reused)
{
    fixture.options.mode = QLOG_MODE_ASYNC;
    fixture_reopen(&fixture);
    publish_many(0, 1);
    char saved[256];
    (void)snprintf(
        saved, sizeof(saved), "cp %s/message/segment-000000 %s.saved", fixture.directory,
        fixture.directory);
    fixture_reopen(&fixture);
    cr_assert_eq(system(saved), 0);
    publish_many(1, 2);
    consume_all("g", 0, 20);
    uint64_t session = fixture_join(&fixture, "h", "c", NULL);
    cr_assert_eq(fixture_pull(&fixture, "h", "c", session, 15, 0).unacked, 15);
    fixture.store->home->env.broken = Q_E_BROKEN;
    cr_assert_eq(qlog_store_close(fixture.store), Q_E_BROKEN);
    (void)snprintf(
        saved, sizeof(saved), "mv %s.saved %s/message/segment-000000; rm %s/superblock",
        fixture.directory, fixture.directory, fixture.directory);
    cr_assert_eq(system(saved), 0);
    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
    /* And what is not there any more is in nobody's hands. */
    cr_assert_eq(fixture_pull(&fixture, "h", "c", session, 15, 0).unacked, 10);
    uint64_t first;
    cr_assert_eq(fixture_publish(&fixture, "orders", "x,y", NULL, &first), Q_OK);
    cr_assert_eq(first, 20);
    fixture_reopen(&fixture);
    consume_all("g", 20, 22);
    fixture_reopen(&fixture);
}

/* Damage to the record that names a subject, makes a group or lets a consumer join does not keep
 * the store from starting; names come back with the next record that tells them. */
Test(store_restart, rot_of_names_and_groups)
{
    publish_many(0, 10);
    consume_all("g", 0, 50 + 50);
    damage_closed("message/segment-000000", 4096 + 300, 50);
    cr_assert_eq(fixture_publish(&fixture, "orders", "x", NULL, NULL), Q_OK);
    damage_closed("action/segment-000000", 4096 * 3 + 100, 200);
    damage_closed("action/segment-000000", 4096 * 2 + 100, 200);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    cr_assert_neq(session, 0);
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 1000, 0);
    cr_assert_eq(pulled.err, Q_OK);
    cr_assert_gt(fixture.events[QLOG_EVENT_ROT], 2);
    fixture_reopen(&fixture);
}

/* A session number is given once, also across clean stops. */
Test(store_restart, sessions_are_unique)
{
    uint64_t first = fixture_join(&fixture, "g", "c", NULL);
    fixture_reopen(&fixture);
    cr_assert_neq(fixture_join(&fixture, "g", "c", NULL), first);
}

/* Segments that are dropped are written again, and what they held before is never read. */
Test(store_restart, segments_are_recycled)
{
    unsigned next = 0;
    for (unsigned round = 0; round < 6; round++) {
        publish_many(next, next + 60);
        next += 60;
        trim(UINT64_MAX, UINT64_MAX);
        if (round % 2 == 0) fixture_crash(&fixture);
    }
    struct ql_subject *subject = fixture.store->index.subjects[0];
    cr_assert_eq(subject->next_sequence, (uint64_t)next * 10);
    struct ql_entry first;
    cr_assert_eq(ql_index_entry(&fixture.store->index, subject, 0, &first), Q_OK);
    consume_all("g", first.first_sequence, (uint64_t)next * 10);
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 0);
}

/* Whatever copies of the superblock are lost, the store starts and has everything. */
Test(store_restart, superblock_copies_are_lost)
{
    publish_many(0, 30);
    consume_all("g", 0, 300);
    unsigned next = 30;
    for (unsigned lost = 1; lost < 16; lost++) {
        uint64_t before = ql_store_state_hash(fixture.store);
        uint64_t generation = fixture.store->home->env.generation;
        cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
        for (unsigned copy = 0; copy < 4; copy++)
            if (lost & 1u << copy) damage("superblock", (long)copy * 4096 + 100, 50);
        cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
        cr_assert_geq(fixture.store->home->env.generation, generation);
        if (lost == 15)
            cr_assert_gt(fixture.store->home->env.generation, generation);
        else if (fixture.store->home->env.generation == generation)
            cr_assert_eq(ql_store_state_hash(fixture.store), before, "copies %x", lost);
        publish_many(next, next + 5);
        next += 5;
    }
    cr_assert_gt(fixture.events[QLOG_EVENT_ROT], 0);
    consume_all("g", 300, (uint64_t)next * 10);
    consume_all("late", 0, (uint64_t)next * 10);
}

/* A damaged segment header is told from the segment's first frame. */
Test(store_restart, segment_header_is_damaged)
{
    publish_many(0, 60);
    damage_closed("message/segment-000000", 200, 100);
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 1);
    publish_many(60, 70);
    consume_all("g", 0, 700);
}

/* Damage in the middle of a log is reported, nothing behind it is lost, and what it hit is never
 * handed out. */
Test(store_restart, rot_in_the_middle)
{
    publish_many(0, 30);
    /* The frames of publishes 10 and 11: a block each, behind the segment's header. */
    damage_closed("message/segment-000000", 4096 * 11 + 300, 4096);
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 1);
    cr_assert_eq(fixture.events[QLOG_EVENT_TORN_TAIL], 0);
    publish_many(30, 31);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 1000, 0);
    cr_assert_eq(pulled.err, Q_OK);
    cr_assert_eq(pulled.run_count, 2);
    cr_assert_eq(pulled.runs[0].sequence, 0);
    cr_assert_eq(pulled.runs[0].count, 100);
    cr_assert_eq(pulled.runs[1].sequence, 120);
    cr_assert_eq(pulled.runs[1].count, 190);
}

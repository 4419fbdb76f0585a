#include "machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbatch/batch.h>
#include <qbatch/build.h>

#include "store/store.h"

const char machine_subject[] = "orders";

static const char directory[] = "/model";

enum {
    TAGS = 4,
    TURNS_MAX = 100 * 1000
};

static void machine_open(struct machine *machine);
static void machine_warm(struct machine *machine, const char *subject);
static bool machine_is_busy(const struct machine *machine);
static void machine_turn(struct machine *machine);

static void
on_done(struct qlog_request *request, enum q_err err)
{
    struct machine_call *call = request->context;
    Q_ASSERT(!call->done);
    *call = (struct machine_call){ true, err };
}

void
machine_start(struct machine *machine, struct ramdisk *disk, uint64_t keep_ms)
{
    static const struct image nothing = { 0 };
    *machine = (struct machine){ .disk = disk };
    ramdisk_load(disk, &nothing);
    q_clock_manual_init(&machine->clock);
    machine->clock.wall_ms = UINT64_C(1700000000000);
    machine->clock.monotonic_ns = Q_NS_PER_S;
    machine->options = (struct qlog_store_options){
        .log = {
            .io = ramdisk_io(disk),
            .clock = &machine->clock.clock,
            .segment_bytes = 256 * 1024,
            .frame_bytes_max = 64 * 1024,
            .create = true,
        },
        .retention_ms = keep_ms,
        .disk_soft_bytes = 1,
        .disk_hard_bytes = 1,
        .scrub_bytes_per_s = UINT64_MAX,
        .subjects_max = 16,
        .groups_max = 16,
        .producers_max = 16,
        .mailbox_max = 16,
    };
    machine_open(machine);
}

static void
machine_open(struct machine *machine)
{
    enum q_err err = qlog_store_open(directory, &machine->options, &machine->store);
    char text[Q_FAULT_LINE_MAX];
    if (err != Q_OK) (void)printf("open: %s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
    Q_ASSERT(err == Q_OK);
}

void
machine_stop(struct machine *machine)
{
    enum q_err err = qlog_store_close(machine->store);
    Q_ASSERT(err == Q_OK);
    machine->store = NULL;
}

void
machine_restart(struct machine *machine, enum machine_end end)
{
    machine_settle(machine);
    /* A latched failure keeps the close from writing anything. */
    if (end != MACHINE_CLOSED) machine->store->home->env.broken = Q_E_BROKEN;
    enum q_err err = qlog_store_close(machine->store);
    Q_ASSERT(err == (end == MACHINE_CLOSED ? Q_OK : Q_E_BROKEN));
    if (end == MACHINE_LOST) ramdisk_lose(machine->disk);
    machine_open(machine);
}

/* Everything into memory, so that pulls find all they want. */
static void
machine_warm(struct machine *machine, const char *subject)
{
    for (uint64_t at = 0;;) {
        struct qlog_peek peek = {
            .pull = {
                .request = { .kind = QLOG_PEEK },
                .who = { .subject = q_bytes_from_text(subject) },
                .messages_max = 1024,
                .bytes_max = 1024 * 1024,
                .runs = machine->runs,
                .runs_max = MACHINE_RUNS_MAX,
                .pieces = machine->pieces,
                .pieces_max = MACHINE_RUNS_MAX,
            },
            .start = QLOG_START_SEQUENCE,
            .at = at,
        };
        enum q_err err = machine_run(machine, &peek.pull.request);
        if (err == Q_NOT_FOUND) return;
        Q_ASSERT(err == Q_OK);
        qlog_pull_release(&peek.pull);
        at = peek.next;
        if (peek.pull.waiting == 0) return;
    }
}

/* --- Turns. */

static void
machine_turn(struct machine *machine)
{
    /* What was written stays in memory, and what was read. */
    machine->store->reader.tail_until_ns = UINT64_MAX;
    machine->store->reader.shrink_ns = UINT64_MAX;
    enum q_err err = qlog_store_turn(machine->store);
    Q_ASSERT(err == Q_OK);
    err = qlog_store_wait(machine->store, Q_NS_PER_MS);
    Q_ASSERT(err == Q_OK);
}

enum q_err
machine_run(struct machine *machine, struct qlog_request *request)
{
    struct machine_call call;
    machine_begin(machine, request, &call);
    Q_ASSERT(call.done);
    return call.err;
}

void
machine_begin(struct machine *machine, struct qlog_request *request, struct machine_call *call)
{
    *call = (struct machine_call){ false, Q_OK };
    request->done = on_done;
    request->context = call;
    enum q_err err = qlog_store_submit(machine->store, request);
    Q_ASSERT(err == Q_OK);
    machine_settle(machine);
}

void
machine_settle(struct machine *machine)
{
    unsigned quiet = 0;
    for (unsigned turns = 0; quiet < 2; turns++) {
        Q_ASSERT(turns < TURNS_MAX);
        machine_turn(machine);
        quiet = machine_is_busy(machine) ? 0 : quiet + 1;
    }
}

static bool
machine_is_busy(const struct machine *machine)
{
    const struct qlog_store *store = machine->store;
    const struct ql_home *home = store->home;
    for (unsigned i = 0; i < home->log_count; i++)
        if (!ql_log_is_idle(&home->logs[i], false)) return true;
    return home->super_busy || home->trim != NULL || store->trims != NULL || store->dead.busy ||
           store->look_again || store->fetch_retry_ns > 0 || ql_reader_is_busy(&store->reader) ||
           (!q_list_is_empty(&store->dying) && store->dead.retry_ns <= store->now_ns);
}

void
machine_time(struct machine *machine, uint64_t now_ms)
{
    uint64_t ms = now_ms - machine->clock.wall_ms;
    q_clock_manual_advance_ns(&machine->clock, ms * Q_NS_PER_MS);
    machine_settle(machine);
}

/* --- Messages. */

uint32_t
machine_tags(uint8_t tags, struct q_bytes *ret_names)
{
    static const char *const names[TAGS] = { "red", "blue", "green", "large" };
    uint32_t count = 0;
    for (unsigned i = 0; i < TAGS; i++)
        if ((tags >> i & 1) != 0) ret_names[count++] = q_bytes_from_text(names[i]);
    return count;
}

enum q_err
machine_publish(struct machine *machine, const struct machine_message *messages, uint32_t count)
{
    struct qbatch_builder_options options = { 0 };
    struct qbatch_builder *builder;
    enum q_err err = qbatch_builder_new(&options, &builder);
    Q_ASSERT(err == Q_OK);
    for (uint32_t i = 0; i < count; i++) {
        struct q_bytes tags[TAGS];
        char key[] = { 'k', (char)('0' + messages[i].key) };
        struct qbatch_message message = {
            .body = q_bytes_from_text("x"),
            .order_key = q_bytes_from(key, messages[i].key == 0 ? 0 : sizeof(key)),
            .only = q_bytes_from_text(messages[i].only == NULL ? "" : messages[i].only),
            .tags = tags,
            .tag_count = machine_tags(messages[i].tags, tags),
            .time_ms = machine->clock.wall_ms,
            .counter = machine->counter++,
        };
        err = qbatch_builder_add(builder, &message);
        Q_ASSERT(err == Q_OK);
    }
    uint8_t envelope[4096];
    uint8_t payload[4096];
    uint32_t envelope_size;
    uint32_t payload_size;
    err = qbatch_builder_close(builder, &envelope_size, &payload_size);
    Q_ASSERT(err == Q_OK && envelope_size <= sizeof(envelope) && payload_size <= sizeof(payload));
    struct qbatch_request_place place = { .request_count = 1 };
    qbatch_builder_write(builder, &place, envelope, payload);
    qbatch_builder_free(builder);

    struct q_bytes name = q_bytes_from_text(machine_subject);
    uint64_t first;
    struct qlog_publish publish = {
        .request = { .kind = QLOG_PUBLISH },
        .envelopes = envelope,
        .envelopes_size = envelope_size,
        .payloads = payload,
        .payloads_size = payload_size,
        .subjects = &name,
        .batch_count = 1,
        .ret_first_sequences = &first,
    };
    err = qlog_publish_check(&publish);
    return err == Q_OK ? machine_run(machine, &publish.request) : err;
}

static uint64_t
property_number(const struct qbatch_view *view, const char *name)
{
    struct q_bytes value;
    char text[24] = "";
    if (qbatch_property_find(view, q_bytes_from_text(name), &value) != Q_OK) return UINT64_MAX;
    memcpy(text, value.data, q_min_u64(value.size, sizeof(text) - 1));
    return strtoull(text, NULL, 10);
}

bool
machine_next_dead(
    struct machine *machine, const char *group, uint64_t *at, struct machine_dead *ret_dead)
{
    char name[64];
    (void)snprintf(name, sizeof(name), "%s%s%%%s", QL_DEAD_PREFIX, machine_subject, group);
    struct qlog_piece piece;
    struct qlog_run run;
    struct qlog_peek peek = {
        .pull = {
            .request = { .kind = QLOG_PEEK },
            .who = { .subject = q_bytes_from_text(name) },
            .messages_max = 1,
            .bytes_max = 1024 * 1024,
            .runs = &run,
            .runs_max = 1,
            .pieces = &piece,
            .pieces_max = 1,
        },
        .start = QLOG_START_SEQUENCE,
        .at = *at,
    };
    machine_warm(machine, name);
    if (machine_run(machine, &peek.pull.request) != Q_OK || peek.pull.run_count == 0) return false;
    struct qbatch batch;
    struct qbatch_walk walk;
    struct qbatch_view view;
    struct q_bytes content;
    static uint8_t unpacked[64 * 1024];
    enum q_err err = qbatch_open_trusted(q_bytes_from(piece.envelope, piece.envelope_size), &batch);
    Q_ASSERT(err == Q_OK && batch.content_length <= sizeof(unpacked));
    err = qbatch_content(&batch, piece.payload, unpacked, &content);
    Q_ASSERT(err == Q_OK);
    qbatch_walk_start(&walk, &batch, content);
    do
        err = qbatch_walk_next(&walk, false, &view);
    while (err == Q_OK && batch.first_sequence + view.index != run.sequence);
    Q_ASSERT(err == Q_OK);
    *ret_dead = (struct machine_dead){
        .sequence = property_number(&view, "dead-sequence"),
        .attempts = property_number(&view, "dead-attempts"),
        .failed = property_number(&view, "dead-failed"),
        .timed_out = property_number(&view, "dead-timed-out"),
        .died = property_number(&view, "dead-died"),
    };
    struct q_bytes text;
    if (qbatch_property_find(&view, q_bytes_from_text("dead-error"), &text) == Q_OK)
        memcpy(ret_dead->error, text.data, q_min_u64(text.size, sizeof(ret_dead->error) - 1));
    err = qbatch_property_find(&view, q_bytes_from_text("dead-reason"), &text);
    ret_dead->expired = err == Q_OK && q_bytes_equal(text, q_bytes_from_text("expired"));
    *at = run.sequence + 1;
    qlog_pull_release(&peek.pull);
    return true;
}

/* --- A look inside. */

uint64_t
machine_first(struct machine *machine)
{
    struct ql_subject *subject;
    struct ql_entry entry;
    struct ql_index *index = &machine->store->index;
    if (ql_index_find(index, q_bytes_from_text(machine_subject), &subject) != Q_OK) return 0;
    if (ql_index_entry(index, subject, 0, &entry) != Q_OK) return subject->next_sequence;
    return entry.first_sequence;
}

uint64_t
machine_actions_end(const struct machine *machine)
{
    return machine->store->actions->tail;
}

bool
machine_is_flushed(const struct machine *machine)
{
    return machine->store->actions->durable == machine->store->actions->tail;
}

uint64_t
machine_generation(struct machine *machine)
{
    /* The first pulls find all they want. */
    machine_warm(machine, machine_subject);
    return machine->store->home->env.generation;
}

uint64_t
machine_state_hash(const struct machine *machine)
{
    return ql_store_state_hash(machine->store);
}

uint64_t
machine_next_pull(const struct machine *machine, const char *group, const char *consumer)
{
    const struct qlog_store *store = machine->store;
    for (uint32_t i = 0; i < store->group_count; i++) {
        if (store->groups[i] == NULL || strcmp(store->groups[i]->name, group) != 0) continue;
        struct q_bytes name = q_bytes_from_text(consumer);
        const struct ql_consumer *found = ql_group_consumer_named(store->groups[i], name);
        if (found != NULL) return ql_consumer_next(store, found);
    }
    return 0;
}

void
machine_check(const struct machine *machine)
{
    for (uint32_t i = 0; i < machine->store->group_count; i++)
        if (machine->store->groups[i] != NULL) ql_group_check(machine->store->groups[i]);
}

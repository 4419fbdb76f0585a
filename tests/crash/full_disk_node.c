#include "full_disk_node.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbatch/batch.h>
#include <qbatch/build.h>

#include "store/store.h"

enum {
    PULL_MESSAGES = 64,
    PULL_BYTES = 512 * 1024,
    STEP_MS = 250,
    CONSUME_MS_MAX = 40,
    ANSWER_TURNS_MAX = 200000,
};

struct answer {
    bool done;
    enum q_err err;
};

static const char *const subject_names[SUBJECTS] = { "orders", "payments", "tickets" };
static const char *const group_names[GROUPS] = { "books", "mail" };

static void slot_fill(struct slot *slot);
static void slot_fill_batch(struct slot *slot, uint32_t batch, uint32_t payload_room);
static uint32_t random_body_size(struct random_source *random);
static void on_published(struct qlog_request *request, enum q_err err);
static enum q_err node_run(struct node *node, struct qlog_request *request);
static void on_done(struct qlog_request *request, enum q_err err);
static void on_forgotten(struct qlog_request *request, enum q_err err);
static bool node_join(struct node *node, unsigned subject, unsigned group);
static struct qlog_consumer consumer_of(const struct node *node, unsigned subject, unsigned group);
static struct handed *node_pull(struct node *node, unsigned subject, unsigned group);
static void handed_check(struct node *node, const struct handed *handed, bool first_time);
static void node_ack(struct node *node, const struct handed *handed, bool wait);
static void node_fail(struct node *node, const char *what);

/* --- Life. */

static void
on_event(void *context, const struct qlog_event *event)
{
    struct node *node = context;
    node->dropped += event->kind == QLOG_EVENT_DROPPED;
    if (event->kind == QLOG_EVENT_ROT || event->kind == QLOG_EVENT_BROKEN)
        truth_fail(&node->truth, "%s: %s", qlog_event_name(event->kind), event->text);
}

bool
node_open(struct node *node)
{
    node->observer = (struct qlog_observer){ .context = node, .on_event = on_event };
    node->options.log.observer = &node->observer;
    node->options.log.clock = &node->clock.clock;
    node->options.log.io = place_io(&node->place);
    if (qlog_store_open(node->directory, &node->options, &node->store) != Q_OK) {
        node_fail(node, "the store does not start");
        place_io_free(node->options.log.io);
        node->store = NULL;
        return false;
    }
    for (unsigned i = 0; i < SUBJECTS; i++)
        for (unsigned j = 0; j < GROUPS; j++)
            if (!node_join(node, i, j)) return false;
    return true;
}

bool
node_restart(struct node *node, bool kill)
{
    node_let_go(node);
    if (kill) {
        /* An acknowledgement whose answer nobody waits for. */
        struct handed *handed = node_pull(
            node, random_below(&node->random, SUBJECTS), random_below(&node->random, GROUPS));
        if (handed != NULL) {
            qlog_pull_release(&handed->pull);
            node_ack(node, handed, false);
            free(handed);
        }
        if (random_below(&node->random, 2) == 0) (void)node_turn(node);
        /* A latched failure keeps the close from flushing or marking anything. */
        node->store->home->env.broken = Q_E_BROKEN;
    }
    enum q_err err = qlog_store_close(node->store);
    if (!kill && err != Q_OK) node_fail(node, "close");
    place_io_free(node->options.log.io);
    truth_restart(&node->truth);
    return node_open(node);
}

void
node_close(struct node *node)
{
    node_let_go(node);
    if (node->store != NULL) {
        if (qlog_store_close(node->store) != Q_OK) node_fail(node, "close");
        place_io_free(node->options.log.io);
    }
    node->store = NULL;
}

bool
node_turn(struct node *node)
{
    enum q_err err = qlog_store_turn(node->store);
    if (err == Q_OK) err = qlog_store_wait(node->store, Q_NS_PER_MS);
    if (err == Q_OK) return true;
    node_fail(node, "turn");
    return false;
}

void
node_pass_ms(struct node *node, uint64_t ms)
{
    for (uint64_t passed = 0; passed < ms; passed += STEP_MS) {
        q_clock_manual_advance_ns(&node->clock, STEP_MS * (uint64_t)Q_NS_PER_MS);
        unsigned turns = 3;
        for (unsigned i = 0; i < turns; i++)
            if (!node_turn(node)) return;
        while (node->store->retention.trimming)
            if (!node_turn(node)) return;
    }
}

static void
node_fail(struct node *node, const char *what)
{
    char text[Q_FAULT_LINE_MAX];
    truth_fail(&node->truth, "%s: %s", what, q_fault_format(q_fault_last(), text, sizeof(text)));
}

static enum q_err
node_run(struct node *node, struct qlog_request *request)
{
    struct answer answer = { 0 };
    request->done = on_done;
    request->context = &answer;
    enum q_err err = qlog_store_submit(node->store, request);
    if (err != Q_OK) return err;
    for (unsigned i = 0; i < ANSWER_TURNS_MAX && !answer.done; i++)
        if (!node_turn(node) && !answer.done) abort();
    Q_ASSERT(answer.done);
    return answer.err;
}

static void
on_done(struct qlog_request *request, enum q_err err)
{
    struct answer *answer = request->context;
    answer->done = true;
    answer->err = err;
}

/* --- Publish. */

struct slot *
node_publish(struct node *node)
{
    struct slot *slot = NULL;
    for (unsigned i = 0; i < SLOTS && slot == NULL; i++)
        if (node->slots[i].number == 0) slot = &node->slots[i];
    if (slot == NULL) return NULL;
    slot->node = node;
    slot->number = truth_publish(&node->truth);
    slot_fill(slot);
    Q_ASSERT(qlog_publish_check(&slot->publish) == Q_OK);
    Q_ASSERT(qlog_store_submit(node->store, &slot->publish.request) == Q_OK);
    return slot;
}

static void
slot_fill(struct slot *slot)
{
    struct random_source *random = &slot->node->random;
    slot->publish = (struct qlog_publish){
        .request = { .kind = QLOG_PUBLISH, .done = on_published, .context = slot },
        .envelopes = slot->envelopes,
        .payloads = slot->payloads,
        .subjects = slot->names,
        .batch_count = 1 + random_below(random, BATCHES_MAX),
        .mode = random_below(random, 3) == 0 ? QLOG_MODE_ASYNC : QLOG_MODE_SYNC,
        .settled = slot->number,
        .ret_first_sequences = slot->first_sequences,
    };
    uint32_t room = PUBLISH_BYTES_MAX / slot->publish.batch_count;
    for (uint32_t i = 0; i < slot->publish.batch_count; i++)
        slot_fill_batch(slot, i, room);
}

static void
slot_fill_batch(struct slot *slot, uint32_t batch, uint32_t payload_room)
{
    struct node *node = slot->node;
    static uint8_t body[PUBLISH_BYTES_MAX];
    slot->subjects[batch] = random_below(&node->random, SUBJECTS);
    slot->names[batch] = q_bytes_from_text(subject_names[slot->subjects[batch]]);
    uint32_t wanted = 1 + random_below(&node->random, 6);
    uint32_t count = 0;
    uint32_t bytes = 0;
    for (; count < wanted; count++) {
        uint32_t size = random_body_size(&node->random);
        if (bytes + size > payload_room - 4096) break;
        truth_body(slot->number, batch, count, body, size);
        struct qbatch_message message = {
            .body = q_bytes_from(body, size),
            .time_ms = node->clock.wall_ms,
            .counter = node->counter++,
        };
        if (qbatch_builder_add(node->builder, &message) != Q_OK) break;
        bytes += size;
    }
    Q_ASSERT(count > 0);
    slot->counts[batch] = count;
    struct qbatch_request_place place = {
        .request_sequence = slot->number,
        .request_index = batch,
        .request_count = slot->publish.batch_count,
    };
    uint32_t envelope_size;
    uint32_t payload_size;
    Q_ASSERT(qbatch_builder_close(node->builder, &envelope_size, &payload_size) == Q_OK);
    Q_ASSERT(slot->publish.envelopes_size + envelope_size <= sizeof(slot->envelopes));
    Q_ASSERT(slot->publish.payloads_size + payload_size <= sizeof(slot->payloads));
    qbatch_builder_write(
        node->builder, &place, slot->envelopes + slot->publish.envelopes_size,
        slot->payloads + slot->publish.payloads_size);
    qbatch_builder_reset(node->builder);
    slot->publish.envelopes_size += envelope_size;
    slot->publish.payloads_size += payload_size;
}

static uint32_t
random_body_size(struct random_source *random)
{
    switch (random_below(random, 8)) {
    case 0:
        return BODY_MIN + random_below(random, 96 * 1024);
    case 1:
    case 2:
        return BODY_MIN + random_below(random, 16 * 1024);
    default:
        return BODY_MIN + random_below(random, 2048);
    }
}

static void
on_published(struct qlog_request *request, enum q_err err)
{
    struct slot *slot = request->context;
    struct node *node = slot->node;
    enum fate fate = FATE_REFUSED;
    if (err == Q_OK) {
        fate = FATE_KEPT;
        node->kept++;
        node->kept_bytes += slot->publish.payloads_size;
        for (uint32_t i = 0; i < slot->publish.batch_count; i++) {
            struct message message = { .publish = slot->number, .batch = i };
            truth_kept(
                &node->truth, slot->subjects[i], slot->first_sequences[i], slot->counts[i],
                &message);
        }
    } else if (err == Q_STORAGE_FULL) {
        node->refused++;
        node->refused_hard += node->store->retention.level == QL_DISK_HARD;
        const struct q_fault *fault = q_fault_last();
        if (fault->err != err || fault->what[0] == '\0')
            truth_fail(&node->truth, "a refusal that says nothing");
    } else if (err == Q_STOPPING || err == Q_E_BROKEN) {
        fate = FATE_UNKNOWN;
    } else {
        node_fail(node, "publish");
    }
    node->truth.fates[slot->number] = (uint8_t)fate;
    slot->number = 0;
}

void
node_wait_publishes(struct node *node)
{
    for (unsigned i = 0; i < SLOTS; i++)
        for (unsigned j = 0; node->slots[i].number != 0; j++) {
            if (!node_turn(node)) return;
            Q_ASSERT(j < ANSWER_TURNS_MAX);
        }
}

enum q_err
node_publish_one(struct node *node)
{
    node_wait_publishes(node);
    uint64_t kept = node->kept;
    if (node_publish(node) == NULL) return Q_E_BROKEN;
    node_wait_publishes(node);
    return node->kept > kept ? Q_OK : Q_STORAGE_FULL;
}

/* --- Consume. */

static struct qlog_consumer
consumer_of(const struct node *node, unsigned subject, unsigned group)
{
    return (struct qlog_consumer){
        .subject = q_bytes_from_text(subject_names[subject]),
        .group = q_bytes_from_text(group_names[group]),
        .consumer = q_bytes_from_text("c"),
        .session = node->sessions[subject][group],
    };
}

static bool
node_join(struct node *node, unsigned subject, unsigned group)
{
    struct qlog_join join = {
        .request = { .kind = QLOG_JOIN },
        .who = consumer_of(node, subject, group),
    };
    q_store_le64(join.token, ++node->tokens);
    if (node_run(node, &join.request) != Q_OK) {
        node_fail(node, "join");
        return false;
    }
    node->sessions[subject][group] = join.session;
    node->received[subject][group] = 0;
    return true;
}

/* NULL: there is nothing, or it failed. */
static struct handed *
node_pull(struct node *node, unsigned subject, unsigned group)
{
    struct handed *handed = malloc(sizeof(*handed));
    Q_ASSERT(handed != NULL);
    handed->subject = subject;
    handed->group = group;
    handed->pull = (struct qlog_pull){
        .request = { .kind = QLOG_PULL },
        .who = consumer_of(node, subject, group),
        .messages_max = 1 + random_below(&node->random, PULL_MESSAGES),
        .bytes_max = PULL_BYTES,
        .received = node->received[subject][group],
        .runs = handed->runs,
        .runs_max = PULL_RUNS,
        .pieces = handed->pieces,
        .pieces_max = PULL_RUNS,
    };
    enum q_err err = node_run(node, &handed->pull.request);
    if (err != Q_OK) node_fail(node, "pull");
    if (err == Q_OK && handed->pull.run_count > 0) {
        const struct qlog_run *last = &handed->runs[handed->pull.run_count - 1];
        node->received[subject][group] = last->pull_sequence + last->count;
        handed_check(node, handed, true);
        return handed;
    }
    if (err == Q_OK) qlog_pull_release(&handed->pull);
    free(handed);
    return NULL;
}

/* Every message of the runs is in a piece, whole. `first_time`: it counts as delivered. */
static void
handed_check(struct node *node, const struct handed *handed, bool first_time)
{
    struct qbatch batches[PULL_RUNS];
    for (uint32_t i = 0; i < handed->pull.piece_count; i++) {
        const struct qlog_piece *piece = &handed->pieces[i];
        struct q_bytes envelope = q_bytes_from(piece->envelope, piece->envelope_size);
        if (qbatch_open(envelope, &batches[i]) == Q_OK &&
            qbatch_check_payload(&batches[i], piece->payload) == Q_OK)
            continue;
        node->truth.phantom++;
        return;
    }
    for (uint32_t i = 0; i < handed->pull.run_count; i++) {
        uint64_t next = handed->runs[i].sequence;
        uint64_t end = next + handed->runs[i].count;
        for (uint32_t j = 0; j < handed->pull.piece_count && next < end; j++) {
            struct q_bytes content;
            struct qbatch_walk walk;
            struct qbatch_view view;
            uint64_t first = batches[j].first_sequence;
            if (next < first || next - first >= batches[j].message_count) continue;
            Q_ASSERT(
                qbatch_content(&batches[j], handed->pieces[j].payload, NULL, &content) == Q_OK);
            qbatch_walk_start(&walk, &batches[j], content);
            while (next < end && qbatch_walk_next(&walk, true, &view) == Q_OK) {
                if (first + view.index != next) continue;
                if (first_time)
                    truth_delivered(&node->truth, handed->subject, handed->group, next, view.body);
                else if (!truth_body_is_whole(view.body))
                    truth_fail(&node->truth, "a message that somebody held has changed");
                next++;
            }
        }
        if (next != end) truth_fail(&node->truth, "a message of a run is in no piece");
    }
}

/* What nobody waits for: the answer comes with the close. */
struct forgotten {
    struct node *node;
    struct qlog_ack ack;
    unsigned subject;
    unsigned group;
    struct qlog_range ranges[PULL_RUNS];
    struct qlog_range messages[PULL_RUNS];
};

static void
node_ack(struct node *node, const struct handed *handed, bool wait)
{
    struct forgotten *ack = malloc(sizeof(*ack));
    Q_ASSERT(ack != NULL);
    *ack = (struct forgotten){
        .node = node,
        .subject = handed->subject,
        .group = handed->group,
    };
    ack->ack = (struct qlog_ack){
        .request = { .kind = QLOG_ACK, .done = on_forgotten, .context = ack },
        .who = consumer_of(node, handed->subject, handed->group),
        .ranges = ack->ranges,
        .range_count = handed->pull.run_count,
        .expired = ack->ranges,
        .expired_max = PULL_RUNS,
    };
    for (uint32_t i = 0; i < handed->pull.run_count; i++) {
        const struct qlog_run *run = &handed->runs[i];
        ack->ranges[i].first = run->pull_sequence;
        ack->ranges[i].last = run->pull_sequence + run->count - 1;
        ack->messages[i].first = run->sequence;
        ack->messages[i].last = run->sequence + run->count - 1;
    }
    if (!wait) {
        Q_ASSERT(qlog_store_submit(node->store, &ack->ack.request) == Q_OK);
        return;
    }
    enum q_err err = node_run(node, &ack->ack.request);
    on_forgotten(&(struct qlog_request){ .context = ack }, err);
}

static void
on_forgotten(struct qlog_request *request, enum q_err err)
{
    struct forgotten *ack = request->context;
    struct truth *truth = &ack->node->truth;
    bool ended = err == Q_STOPPING || err == Q_E_BROKEN;
    if (err != Q_OK && !ended) node_fail(ack->node, "an acknowledgement is refused");
    if (err == Q_OK && ack->ack.expired_count > 0)
        truth_fail(truth, "an acknowledgement in time came too late");
    for (uint32_t i = 0; (err == Q_OK || ended) && i < ack->ack.range_count; i++)
        truth_acked(truth, ack->subject, ack->group, &ack->messages[i], err == Q_OK);
    free(ack);
}

bool
node_consume(struct node *node, unsigned subject, unsigned group)
{
    q_clock_manual_advance_ns(
        &node->clock, random_below(&node->random, CONSUME_MS_MAX) * (uint64_t)Q_NS_PER_MS);
    struct handed *handed = node_pull(node, subject, group);
    if (handed == NULL) return false;
    qlog_pull_release(&handed->pull);
    node_ack(node, handed, true);
    free(handed);
    return true;
}

void
node_drain(struct node *node, unsigned subject, unsigned group)
{
    uint64_t failed = node->truth.failed;
    while (node_consume(node, subject, group) && node->truth.failed == failed)
        continue;
    if (node->truth.failed == failed) truth_drained(&node->truth, subject, group);
}

void
node_hold(struct node *node, unsigned subject, unsigned group)
{
    node_let_go(node);
    node->held = node_pull(node, subject, group);
    /* Now nothing but the pin keeps its messages. */
    if (node->held != NULL) node_ack(node, node->held, true);
}

void
node_let_go(struct node *node)
{
    if (node->held == NULL) return;
    handed_check(node, node->held, false);
    qlog_pull_release(&node->held->pull);
    free(node->held);
    node->held = NULL;
}

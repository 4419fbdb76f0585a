#include "store_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbatch/batch.h>
#include <qbatch/build.h>

static const char directory[] = "/data";

enum {
    TURNS_MAX = 20000, /* more is a hang */
    RUNS_MAX = 32,
    PIECES_MAX = 16,
    RANGES_MAX = 16,
    MESSAGES_MAX = 6, /* of a batch */
    AGAIN_MAX = 40,   /* numbers back that are sent again; the store knows 64 */
};

/* A request on its way, with all that it points to. */
struct ticket {
    union {
        struct qlog_request request;
        struct qlog_publish publish;
        struct qlog_join join;
        struct qlog_pull pull;
        struct qlog_ack ack;
        struct qlog_session session;
        struct qlog_trim trim;
    };
    struct store_client *client;
    struct client_consumer *consumer;
    unsigned index; /* of its entry in the history */
    unsigned count; /* of such entries */
    bool again;     /* a publish that was submitted before */
    struct q_bytes subjects[MODEL_BATCHES_MAX];
    uint64_t firsts[MODEL_BATCHES_MAX];
    struct qlog_run runs[RUNS_MAX];
    struct qlog_piece pieces[PIECES_MAX];
    struct qlog_range ranges[RANGES_MAX];
    struct qlog_range expired[RANGES_MAX];
    uint8_t *envelopes;
    uint8_t *payloads;
};

static void client_observe(struct store_client *client);
static void on_publish(struct ticket *ticket, enum q_err err);
static void on_join(struct ticket *ticket);
static void on_pull(struct ticket *ticket);
static void on_ack(struct ticket *ticket);

static uint64_t
client_now(const struct store_client *client)
{
    return simdisk_now(client->disk);
}

static void
on_event(void *context, const struct qlog_event *event)
{
    struct store_client *client = context;
    if (event->kind == QLOG_EVENT_ROT)
        verdict_add_error(
            client->verdict, client->disk, "called rot, but it is a crash: %s at %llu", event->text,
            (unsigned long long)event->position);
    if (event->kind == QLOG_EVENT_BROKEN && !client->dying)
        verdict_add_error(client->verdict, client->disk, "the store broke: %s", event->text);
    if (event->kind == QLOG_EVENT_VOID_ACTIONS && client->options.mode != QLOG_MODE_ASYNC &&
        client->history->trim_count == 0)
        verdict_add_error(
            client->verdict, client->disk, "messages were handed out before they were durable");
}

void
client_init(
    struct store_client *client,
    struct store_history *history,
    const struct qlog_store_options *options,
    uint64_t seed,
    struct simdisk *disk,
    struct verdict *verdict)
{
    *client = (struct store_client){
        .history = history,
        .disk = disk,
        .verdict = verdict,
        .random = { .state = seed },
        .options = *options,
    };
    q_clock_manual_init(&client->clock);
    client->clock.monotonic_ns = Q_NS_PER_S;
    client->clock.wall_ms = 1700000000000;
    client->observer = (struct qlog_observer){ client, on_event };
    client->options.log.io = simdisk_io(disk);
    client->options.log.clock = &client->clock.clock;
    client->options.log.observer = &client->observer;
    client->options.log.create = true;
    for (unsigned i = 0; i < CLIENT_CONSUMERS; i++) {
        struct client_consumer *consumer = &client->consumers[i];
        /* Two of one group, one of another on the same subject, one with a filter; then others. */
        consumer->subject = i / 4;
        consumer->tag = i == 3 ? 0 : MODEL_NO_TAG;
        (void)snprintf(consumer->group, sizeof(consumer->group), "group-%u", i < 2 ? 0 : i);
        (void)snprintf(consumer->name, sizeof(consumer->name), "c%u", i);
    }
}

/* --- The process. */

bool
client_open(struct store_client *client)
{
    enum q_err err = qlog_store_open(directory, &client->options, &client->store);
    if (err != Q_OK) {
        char text[Q_FAULT_LINE_MAX];
        client->store = NULL;
        verdict_add_error(
            client->verdict, client->disk, "open: %s: %s", q_err_name(err),
            q_fault_format(q_fault_last(), text, sizeof(text)));
        return false;
    }
    /* What an open met with a failed read has seen is not for the model. */
    if (simdisk_has_failed(client->disk)) {
        (void)client_close(client);
        return false;
    }
    store_verify(
        client->history, client->store, simdisk_raw_io(client->disk), directory, true,
        client_now(client), client->verdict);
    for (unsigned i = 0; i < CLIENT_CONSUMERS; i++)
        client->consumers[i].busy = false;
    if (verdict_is_good(client->verdict)) return true;
    client_stop(client, true);
    return false;
}

void
client_verify(struct store_client *client)
{
    store_verify(
        client->history, client->store, simdisk_raw_io(client->disk), directory, false,
        client_now(client), client->verdict);
}

bool
client_close(struct store_client *client)
{
    enum q_err err = qlog_store_close(client->store);
    client->store = NULL;
    client->waiting = 0;
    Q_ASSERT(client->outstanding == 0);
    if (err != Q_OK) verdict_add_error(client->verdict, client->disk, "close: %s", q_err_name(err));
    return err == Q_OK;
}

void
client_stop(struct store_client *client, bool kill)
{
    client->dying = true;
    simdisk_die(client->disk);
    (void)qlog_store_close(client->store);
    client->store = NULL;
    client->dying = false;
    client->waiting = 0;
    Q_ASSERT(client->outstanding == 0);
    struct crash_rule rule = simdisk_random_rule(client->disk, random_u64(&client->random), kill);
    if (!kill) store_history_void(client->history, client_now(client));
    simdisk_crash(client->disk, &rule);
}

bool
client_turn(struct store_client *client)
{
    bool must_break = simdisk_must_break(client->disk);
    enum q_err err = qlog_store_turn(client->store);
    client_observe(client);
    if (must_break && err != Q_E_BROKEN)
        verdict_add(
            client->verdict, VERDICT_FAILED, "after a failed write or flush, a turn answers %s",
            q_err_name(err));
    if (err == Q_OK) err = qlog_store_wait(client->store, Q_NS_PER_MS);
    q_clock_manual_advance_ns(&client->clock, Q_NS_PER_MS / 4);
    if (err != Q_OK) verdict_add_error(client->verdict, client->disk, "turn: %s", q_err_name(err));
    return err == Q_OK;
}

static void
client_observe(struct store_client *client)
{
    struct qlog_store *store = client->store;
    uint64_t now = client_now(client);
    store_history_durable(client->history, store->messages->durable, store->actions->durable, now);
    if (store->home->env.broken == Q_OK && client->outstanding == client->waiting &&
        ql_log_is_idle(store->messages, false) && ql_log_is_idle(store->actions, false))
        store_history_rest(client->history, store, now);
}

static bool
client_drain_to(struct store_client *client, bool settled)
{
    const struct qlog_store *store = client->store;
    for (unsigned i = 0; i < TURNS_MAX; i++) {
        if (!client_turn(client)) return false;
        /* A trim may wait for a minute, when dead letters can't be written. */
        if (i >= TURNS_MAX / 2 && store->expiry.state != QL_EXPIRY_IDLE)
            q_clock_manual_advance_ns(&client->clock, 10 * (uint64_t)Q_NS_PER_MS);
        bool flushed = store->messages->durable == store->messages->tail &&
                       store->actions->durable == store->actions->tail;
        if (settled ? flushed && client->outstanding == 0 : client->outstanding == client->waiting)
            return true;
    }
    verdict_add(client->verdict, VERDICT_HUNG, "requests are never answered");
    return false;
}

bool
client_drain(struct store_client *client)
{
    return client_drain_to(client, false);
}

bool
client_settle(struct store_client *client)
{
    /* Waiting pulls end by themselves, and what is written is flushed, after a while. */
    return client_drain_to(client, true);
}

/* --- Requests. */

static void
on_done(struct qlog_request *request, enum q_err err)
{
    struct ticket *ticket = q_container_of(request, struct ticket, request);
    struct store_client *client = ticket->client;
    client->outstanding--;
    if (request->kind == QLOG_PULL && ticket->pull.wait_ns > 0) client->waiting--;
    if (ticket->consumer != NULL && request->kind != QLOG_ACK) ticket->consumer->busy = false;
    if (err < Q_OK && !client->dying)
        verdict_add_error(
            client->verdict, client->disk, "request %d: %s: %s", (int)request->kind,
            q_err_name(err), q_fault_last()->what);
    if (request->kind == QLOG_PUBLISH) on_publish(ticket, err);
    if (err == Q_OK && request->kind == QLOG_JOIN) on_join(ticket);
    if (err == Q_OK && request->kind == QLOG_PULL) on_pull(ticket);
    if (err == Q_OK && request->kind == QLOG_ACK) on_ack(ticket);
    /* What else there may be to say to a consumer: that it has no session. */
    if (ticket->consumer != NULL && (err > Q_OK || request->kind == QLOG_LEAVE) &&
        err != Q_WINDOW_FULL && err != Q_STOPPING)
        ticket->consumer->session = 0;
    free(ticket->envelopes);
    free(ticket->payloads);
    free(ticket);
}

static struct ticket *
ticket_new(
    struct store_client *client, struct client_consumer *consumer, enum qlog_request_kind kind)
{
    struct ticket *ticket = calloc(1, sizeof(*ticket));
    Q_ASSERT(ticket != NULL);
    ticket->client = client;
    ticket->consumer = consumer;
    ticket->request.kind = kind;
    ticket->request.done = on_done;
    if (consumer != NULL && kind != QLOG_ACK) consumer->busy = true;
    return ticket;
}

static void
ticket_submit(struct ticket *ticket)
{
    ticket->client->outstanding++;
    if (ticket->request.kind == QLOG_PULL && ticket->pull.wait_ns > 0) ticket->client->waiting++;
    enum q_err err = qlog_store_submit(ticket->client->store, &ticket->request);
    Q_ASSERT(err == Q_OK);
}

static struct qlog_consumer
consumer_who(const struct client_consumer *consumer)
{
    return (struct qlog_consumer){
        .subject = q_bytes_from_text(model_subject_name(consumer->subject)),
        .group = q_bytes_from_text(consumer->group),
        .consumer = q_bytes_from_text(consumer->name),
        .session = consumer->session,
    };
}

/* --- Publish. */

static void
build_batch(
    struct ticket *ticket,
    struct model_publish *entry,
    unsigned index,
    struct random_source *random)
{
    struct model_batch *batch = &entry->batches[index];
    struct qbatch_builder *builder;
    struct qbatch_builder_options options = { .bytes_max = 1024 * 1024 };
    memcpy(options.producer_id, "crash rig client", sizeof(options.producer_id));
    enum q_err err = qbatch_builder_new(&options, &builder);
    Q_ASSERT(err == Q_OK);
    uint8_t *padded = calloc(1, entry->body + 32);
    Q_ASSERT(padded != NULL);
    struct q_bytes tag = q_bytes_from_text(model_tag_name(batch->tag));
    struct q_bytes key = q_bytes_from_text(model_subject_name(batch->subject));
    for (uint32_t i = 0; i < batch->count; i++) {
        model_body((char *)padded, entry->id, index, i);
        struct qbatch_message message = {
            .body = q_bytes_from(padded, 32 + random_below(random, entry->body + 1)),
            .tags = &tag,
            .tag_count = 1,
            .keys = &key,
            .key_count = i % 2,
            .time_ms = entry->time_ms,
            .counter = i,
        };
        err = qbatch_builder_add(builder, &message);
        Q_ASSERT(err == Q_OK);
    }
    uint32_t envelope_size;
    uint32_t payload_size;
    err = qbatch_builder_close(builder, &envelope_size, &payload_size);
    Q_ASSERT(err == Q_OK);
    struct qlog_publish *publish = &ticket->publish;
    ticket->envelopes = realloc(ticket->envelopes, publish->envelopes_size + envelope_size);
    ticket->payloads = realloc(ticket->payloads, publish->payloads_size + payload_size);
    Q_ASSERT(ticket->envelopes != NULL && ticket->payloads != NULL);
    struct qbatch_request_place place = { entry->id, index, entry->batch_count };
    uint8_t *envelope = ticket->envelopes + publish->envelopes_size;
    qbatch_builder_write(builder, &place, envelope, ticket->payloads + publish->payloads_size);
    publish->envelopes_size += envelope_size;
    publish->payloads_size += payload_size;
    qbatch_builder_free(builder);
    free(padded);
    struct qbatch opened;
    err = qbatch_open(q_bytes_from(envelope, envelope_size), &opened);
    Q_ASSERT(err == Q_OK);
    batch->payload_hash = opened.payload_hash;
}

/* The same bytes, whenever it is built. */
static void
build_publish(struct ticket *ticket, struct model_publish *entry, bool async)
{
    struct random_source random = { .state = entry->seed };
    for (unsigned i = 0; i < entry->batch_count; i++) {
        ticket->subjects[i] = q_bytes_from_text(model_subject_name(entry->batches[i].subject));
        build_batch(ticket, entry, i, &random);
    }
    ticket->publish.envelopes = ticket->envelopes;
    ticket->publish.payloads = ticket->payloads;
    ticket->publish.subjects = ticket->subjects;
    ticket->publish.batch_count = entry->batch_count;
    ticket->publish.mode = async ? QLOG_MODE_ASYNC : QLOG_MODE_DEFAULT;
    ticket->publish.ret_first_sequences = ticket->firsts;
    /* What has no outcome is on its way, and comes first. */
    ticket->publish.settled = entry->id;
    enum q_err err = qlog_publish_check(&ticket->publish);
    Q_ASSERT(err == Q_OK);
}

static struct ticket *
new_publish(struct store_client *client, unsigned batches, uint32_t body, bool async)
{
    struct ticket *ticket = ticket_new(client, NULL, QLOG_PUBLISH);
    struct store_history *history = client->history;
    ticket->index = history->publish_count;
    struct model_publish *entry = model_add(history->publishes, history->publish_count);
    entry->id = ++history->next_id;
    entry->seed = random_u64(&client->random);
    entry->time_ms = client->clock.wall_ms;
    entry->body = body;
    entry->promise = promise_new(client_now(client));
    entry->bound = MODEL_UNKNOWN;
    entry->frame = MODEL_UNKNOWN;
    entry->batch_count = batches;
    for (unsigned i = 0; i < batches; i++)
        entry->batches[i] = (struct model_batch){
            .subject = random_below(&client->random, 3) == 0
                           ? random_below(&client->random, MODEL_SUBJECTS)
                           : random_below(&client->random, 2),
            .count = 1 + random_below(&client->random, MESSAGES_MAX),
            .tag = (int)random_below(&client->random, 2),
            .first = MODEL_UNKNOWN,
        };
    build_publish(ticket, entry, async);
    return ticket;
}

void
client_publish(struct store_client *client, unsigned batches, uint32_t body, bool async)
{
    ticket_submit(new_publish(client, batches, body, async));
}

void
client_publish_crossed(struct store_client *client, unsigned batches, uint32_t body)
{
    struct ticket *first = new_publish(client, batches, body, false);
    struct ticket *second = new_publish(client, batches, body, false);
    second->publish.settled = first->publish.settled;
    ticket_submit(second);
    ticket_submit(first);
}

void
client_publish_again(struct store_client *client, bool async)
{
    struct store_history *history = client->history;
    unsigned back = 1 + random_below(&client->random, 8);
    if (back > history->publish_count) return;
    unsigned index = history->publish_count - back;
    /* Where it counts: the last entry of this number. */
    for (unsigned i = index + 1; i < history->publish_count; i++)
        if (history->publishes[i].id == history->publishes[index].id) index = i;
    struct model_publish *entry = &history->publishes[index];
    if (history->next_id - entry->id >= AGAIN_MAX) return;
    /* It may be refused still, and be taken when it comes once more: where it lies then has no entry. */
    bool open = entry->promise.answered == MEDIA_NEVER && entry->promise.dropped == MEDIA_NEVER;
    if (entry->sent_again && open) return;
    struct ticket *ticket = ticket_new(client, NULL, QLOG_PUBLISH);
    ticket->again = entry->promise.dropped == MEDIA_NEVER;
    if (!ticket->again) {
        /* It is not stored: if it is now, then as the last one. */
        struct model_publish copy = *entry;
        index = history->publish_count;
        entry = model_add(history->publishes, history->publish_count);
        *entry = copy;
        entry->sent_again = true;
        entry->promise = promise_new(client_now(client));
        entry->bound = MODEL_UNKNOWN;
    }
    ticket->index = index;
    build_publish(ticket, entry, async);
    ticket->publish.again = true;
    ticket_submit(ticket);
}

static void
on_publish(struct ticket *ticket, enum q_err err)
{
    struct store_client *client = ticket->client;
    struct model_publish *entry = &client->history->publishes[ticket->index];
    if (err != Q_OK) {
        bool stored = ticket->again && promise_holds(&entry->promise);
        if (err == Q_E_BROKEN || client->dying) return;
        /* Refused, and the store goes on: it is nowhere. */
        if (!ticket->again) promise_settle(&entry->promise, client_now(client), false);
        if (stored)
            verdict_add_error(
                client->verdict, client->disk, "publish %u is stored, and sent again it gets %s",
                entry->id, q_err_name(err));
        return;
    }
    /* It was stored, and trimmed before anybody looked. */
    bool trimmed = client->history->trim_count > 0 && ticket->firsts[0] == QLOG_SEQUENCE_GONE;
    if (ticket->publish.duplicate && !ticket->again && trimmed) {
        promise_settle(&entry->promise, client_now(client), false);
        return;
    }
    if (ticket->publish.duplicate && !ticket->again)
        verdict_add(
            client->verdict, VERDICT_LOST, "publish %u is not stored, and called a duplicate",
            entry->id);
    if (entry->promise.answered == MEDIA_NEVER) entry->promise.answered = client_now(client);
    if (ticket->publish.achieved == QLOG_MODE_SYNC && entry->promise.durable == MEDIA_NEVER)
        entry->promise.durable = client_now(client);
    if (entry->bound == MODEL_UNKNOWN) entry->bound = client->store->messages->written;
    for (unsigned i = 0; i < entry->batch_count; i++) {
        struct model_batch *batch = &entry->batches[i];
        if (ticket->firsts[i] == QLOG_SEQUENCE_GONE && ticket->publish.duplicate) continue;
        if (batch->first != MODEL_UNKNOWN && batch->first != ticket->firsts[i])
            verdict_add(
                client->verdict, VERDICT_PHANTOM, "publish %u has sequence %llu, then %llu",
                entry->id, (unsigned long long)batch->first, (unsigned long long)ticket->firsts[i]);
        batch->first = ticket->firsts[i];
        struct ql_subject *subject;
        struct ql_entry stored;
        struct ql_index *index = &client->store->index;
        if (ql_index_find(index, ticket->subjects[i], &subject) == Q_OK &&
            ql_index_entry(index, subject, ticket->firsts[i], &stored) == Q_OK)
            entry->frame = stored.frame;
    }
}

/* --- Join and leave. */

void
client_join(struct store_client *client, struct client_consumer *consumer, bool latest)
{
    struct ticket *ticket = ticket_new(client, consumer, QLOG_JOIN);
    struct store_history *history = client->history;
    int group = model_find_group(history, consumer->subject, consumer->group);
    if (group < 0) {
        group = (int)history->group_count;
        struct model_group *entry = model_add(history->groups, history->group_count);
        entry->subject = consumer->subject;
        (void)snprintf(entry->name, sizeof(entry->name), "%s", consumer->group);
        entry->tag = consumer->tag;
        entry->start = MODEL_UNKNOWN;
        entry->promise = promise_new(client_now(client));
        entry->bound = MODEL_UNKNOWN;
    }
    ticket->index = (unsigned)group;
    ticket->join.who = consumer_who(consumer);
    ticket->join.start = latest ? QLOG_START_LATEST : QLOG_START_EARLIEST;
    if (consumer->tag != MODEL_NO_TAG) {
        ticket->join.tags[0] = q_bytes_from_text(model_tag_name(consumer->tag));
        ticket->join.tag_count = 1;
    }
    uint64_t token = random_u64(&client->random);
    memcpy(ticket->join.token, &token, sizeof(token));
    ticket_submit(ticket);
}

static void
on_join(struct ticket *ticket)
{
    struct store_client *client = ticket->client;
    struct model_group *group = &client->history->groups[ticket->index];
    ticket->consumer->session = ticket->join.session;
    ticket->consumer->hand_count = 0;
    ticket->consumer->received = 0;
    if (ticket->join.group_created) group->start = ticket->join.cursor;
    if (group->promise.answered != MEDIA_NEVER) return;
    group->promise.answered = client_now(client);
    group->bound = client->store->actions->written;
}

void
client_leave(struct store_client *client, struct client_consumer *consumer)
{
    struct ticket *ticket = ticket_new(client, consumer, QLOG_LEAVE);
    ticket->session.who = consumer_who(consumer);
    ticket_submit(ticket);
}

/* --- Pull. */

void
client_pull(
    struct store_client *client, struct client_consumer *consumer, uint32_t max, uint64_t wait_ns)
{
    struct ticket *ticket = ticket_new(client, consumer, QLOG_PULL);
    ticket->pull.who = consumer_who(consumer);
    ticket->pull.messages_max = max;
    ticket->pull.bytes_max = 64 * 1024;
    ticket->pull.wait_ns = wait_ns;
    ticket->pull.received = consumer->received;
    ticket->pull.runs = ticket->runs;
    ticket->pull.runs_max = RUNS_MAX;
    ticket->pull.pieces = ticket->pieces;
    ticket->pull.pieces_max = PIECES_MAX;
    ticket_submit(ticket);
}

/* The message is what was published under this sequence, byte for byte. */
static void
check_message(
    struct store_client *client, const struct ticket *ticket, unsigned subject, uint64_t sequence)
{
    const struct model_publish *publish;
    const struct model_batch *wanted = model_find(client->history, subject, sequence, &publish);
    for (uint32_t i = 0; wanted != NULL && i < ticket->pull.piece_count; i++) {
        const struct qlog_piece *piece = &ticket->pieces[i];
        struct qbatch batch;
        struct q_bytes content;
        struct qbatch_walk walk;
        struct qbatch_view view;
        if (qbatch_open(q_bytes_from(piece->envelope, piece->envelope_size), &batch) != Q_OK ||
            qbatch_check_payload(&batch, piece->payload) != Q_OK ||
            qbatch_content(&batch, piece->payload, NULL, &content) != Q_OK)
            break;
        if (batch.first_sequence != wanted->first || batch.request_sequence != publish->id)
            continue;
        char body[32] = { 0 };
        uint32_t index = (uint32_t)(sequence - wanted->first);
        model_body(body, publish->id, (unsigned)(wanted - publish->batches), index);
        qbatch_walk_start(&walk, &batch, content);
        while (qbatch_walk_next(&walk, true, &view) == Q_OK)
            if (view.index == index && view.body.size >= strlen(body) &&
                memcmp(view.body.data, body, strlen(body)) == 0)
                return;
    }
    verdict_add(
        client->verdict, VERDICT_PHANTOM, "a pull of %s gives something else for sequence %llu",
        model_subject_name(subject), (unsigned long long)sequence);
}

static void
on_pull(struct ticket *ticket)
{
    struct store_client *client = ticket->client;
    struct client_consumer *consumer = ticket->consumer;
    int group = model_find_group(client->history, consumer->subject, consumer->group);
    for (uint32_t i = 0; i < ticket->pull.run_count; i++) {
        const struct qlog_run *run = &ticket->runs[i];
        for (uint32_t j = 0; j < run->count; j++)
            check_message(client, ticket, consumer->subject, run->sequence + j);
        consumer->received = run->pull_sequence + run->count;
        consumer->given += run->count;
        if (consumer->hand_count < CLIENT_HANDS_MAX) consumer->hands[consumer->hand_count++] = *run;
        if (group < 0) continue;
        struct model_hand *hand = model_add(client->history->hands, client->history->hand_count);
        *hand = (struct model_hand){
            .group = (unsigned)group,
            .session = consumer->session,
            .pull_sequence = run->pull_sequence,
            .sequence = run->sequence,
            .count = run->count,
            .promise = promise_new(client_now(client)),
            .bound = client->store->actions->written,
        };
        (void)snprintf(hand->consumer, sizeof(hand->consumer), "%s", consumer->name);
        hand->promise.answered = client_now(client);
    }
    qlog_pull_release(&ticket->pull);
}

/* --- Acknowledge. */

void
client_ack(struct store_client *client, struct client_consumer *consumer, bool all)
{
    int group = model_find_group(client->history, consumer->subject, consumer->group);
    if (consumer->hand_count == 0 || group < 0) return;
    struct ticket *ticket = ticket_new(client, consumer, QLOG_ACK);
    struct store_history *history = client->history;
    ticket->index = history->done_count;
    unsigned kept = 0;
    for (unsigned i = 0; i < consumer->hand_count; i++) {
        struct qlog_run run = consumer->hands[i];
        bool taken = all || random_below(&client->random, 2) == 0;
        if (!taken || ticket->ack.range_count == RANGES_MAX) {
            consumer->hands[kept++] = run;
            continue;
        }
        /* Sometimes only the first of a run. */
        uint32_t count = all ? run.count : 1 + random_below(&client->random, run.count);
        ticket->ranges[ticket->ack.range_count++] =
            (struct qlog_range){ run.pull_sequence, run.pull_sequence + count - 1 };
        for (uint32_t j = 0; j < count; j++) {
            struct model_done *done = model_add(history->dones, history->done_count);
            done->group = (unsigned)group;
            done->sequence = run.sequence + j;
            done->in_vain =
                !model_hand_holds(history, (unsigned)group, consumer->name, run.pull_sequence + j);
            done->promise = promise_new(client_now(client));
            done->bound = MODEL_UNKNOWN;
        }
        run.pull_sequence += count;
        run.sequence += count;
        run.count -= count;
        if (run.count > 0) consumer->hands[kept++] = run;
    }
    consumer->hand_count = kept;
    if (ticket->ack.range_count == 0) {
        free(ticket);
        return;
    }
    ticket->count = history->done_count - ticket->index;
    ticket->ack.who = consumer_who(consumer);
    ticket->ack.ranges = ticket->ranges;
    ticket->ack.expired = ticket->expired;
    ticket->ack.expired_max = RANGES_MAX;
    ticket_submit(ticket);
}

static void
on_ack(struct ticket *ticket)
{
    /* What came too late was not done; what came in time beside it is no promise to check. */
    if (ticket->ack.expired_count > 0) return;
    for (unsigned i = 0; i < ticket->count; i++) {
        struct model_done *done = &ticket->client->history->dones[ticket->index + i];
        if (done->in_vain) continue;
        done->promise.answered = client_now(ticket->client);
        done->bound = ticket->client->store->actions->written;
    }
}

void
client_trim(struct store_client *client)
{
    const struct qlog_store *store = client->store;
    struct ticket *ticket = ticket_new(client, NULL, QLOG_TRIM);
    struct store_history *history = client->history;
    ticket->trim.messages_before.value =
        store->messages->durable * random_below(&client->random, 5) / 4;
    ticket->trim.actions_before.value =
        store->actions->durable * random_below(&client->random, 5) / 4;
    struct model_trim *trim = model_add(history->trims, history->trim_count);
    trim->messages_before = ticket->trim.messages_before.value;
    trim->promise = promise_new(client_now(client));
    history->gaps = true;
    ticket_submit(ticket);
}

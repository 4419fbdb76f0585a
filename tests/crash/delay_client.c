#include "delay_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>
#include <qbatch/batch.h>
#include <qbatch/hash.h>

#include "delay_publish.h"

static const char directory[] = "/delay";
static const char *const target_names[DELAY_TARGETS] = { "east", "west" };

enum {
    TURNS_MAX = 4000,
    FINISH_MAX = 60000,
    IDS_MAX = 4096,
    LIST_MAX = 4096,
    RETRY_TURNS = 256,
    CONFIRM_MS = 30 * 1000,
};

struct cancel {
    struct qlog_delay_cancel cancel;
    struct delay_client *client;
    unsigned item;
};

struct move {
    struct qlog_delay_reschedule move;
    struct delay_client *client;
    unsigned item;
};

static bool client_turn(struct delay_client *client);
static bool client_drain(struct delay_client *client);
static void client_cancel(struct delay_client *client);
static void client_move(struct delay_client *client);
static void client_sleep(struct delay_client *client, uint64_t ms);
static void client_step_clock(struct delay_client *client);
static void client_check_list(struct delay_client *client);
static void send_check_time(struct delay_client *client, const struct qlog_delay_send *send);
static void client_try_refused(struct delay_client *client);
static bool finish_turn(struct delay_client *client);
static void broker_serve(struct delay_client *client, bool well);
static void broker_read(
    struct delay_client *client,
    const struct qlog_delay_send *send,
    uint32_t ids[],
    struct delay_stored *ret_stored);
static enum q_err broker_store(
    struct delay_client *client, const struct qlog_delay_send *send, bool well);

static bool
chance(struct delay_client *client, unsigned percent)
{
    return random_below(&client->random, 100) < percent;
}

/* --- History. */

struct delay_history *
delay_history_new(const struct work_kind *kind, const struct delay_plan *plan)
{
    struct delay_history *history = calloc(1, sizeof(*history));
    Q_ASSERT(history != NULL);
    history->history.kind = kind;
    history->plan = plan;
    history->next_id = 1;
    history->monotonic_ns = Q_NS_PER_S;
    history->wall_ms = UINT64_C(1700000000000);
    return history;
}

void
delay_history_free(struct delay_history *history)
{
    for (unsigned i = 0; i < history->stored_count; i++)
        free(history->stored[i].ids);
    free(history->stored);
    free(history->forgotten);
    free(history->items);
    delay_requests_free(history);
    free(history);
}

static void
history_add_stored(struct delay_history *history, const struct delay_stored *stored)
{
    if (history->stored_count == history->stored_capacity) {
        history->stored_capacity = history->stored_capacity * 2 + 16;
        history->stored =
            realloc(history->stored, history->stored_capacity * sizeof(history->stored[0]));
        Q_ASSERT(history->stored != NULL);
    }
    struct delay_stored *copy = &history->stored[history->stored_count++];
    *copy = *stored;
    copy->ids = malloc((stored->count + 1) * sizeof(copy->ids[0]));
    Q_ASSERT(copy->ids != NULL);
    memcpy(copy->ids, stored->ids, stored->count * sizeof(copy->ids[0]));
}

static void
history_add_forgotten(struct delay_history *history, const struct delay_forgotten *forgotten)
{
    history->forgotten =
        realloc(history->forgotten, (history->forgotten_count + 1) * sizeof(history->forgotten[0]));
    Q_ASSERT(history->forgotten != NULL);
    history->forgotten[history->forgotten_count++] = *forgotten;
}

static bool
history_forgot(const struct delay_history *history, unsigned target, const uint8_t id[16])
{
    for (unsigned i = 0; i < history->forgotten_count; i++)
        if (history->forgotten[i].target == target &&
            memcmp(history->forgotten[i].producer_id, id, 16) == 0)
            return true;
    return false;
}

struct delay_item *
delay_history_add_item(struct delay_history *history)
{
    if (history->count == history->capacity) {
        history->capacity = history->capacity * 2 + 16;
        history->items = realloc(history->items, history->capacity * sizeof(history->items[0]));
        Q_ASSERT(history->items != NULL);
    }
    return &history->items[history->count++];
}

struct delay_history *
delay_history_cut(const struct delay_history *whole, uint64_t at, bool kill)
{
    struct delay_history *cut = delay_history_new(whole->history.kind, whole->plan);
    cut->next_id = whole->next_id;
    cut->monotonic_ns = whole->monotonic_ns;
    cut->wall_ms = whole->wall_ms;
    for (unsigned i = 0; i < whole->count; i++) {
        const struct delay_item *item = &whole->items[i];
        if (!promise_is_known(&item->promise, at)) continue;
        struct delay_item *copy = delay_history_add_item(cut);
        *copy = *item;
        copy->promise = promise_cut(&item->promise, at, kill);
        copy->cancel_asked = item->cancel_asked && promise_is_known(&item->cancel, at);
        copy->cancel = promise_cut(&item->cancel, at, kill);
        copy->move_asked = item->move_asked && promise_is_known(&item->move, at);
        copy->move = promise_cut(&item->move, at, kill);
    }
    delay_requests_cut(cut, whole, at);
    for (unsigned i = 0; i < whole->stored_count; i++) {
        struct delay_stored stored = whole->stored[i];
        if (stored.moment > at) continue;
        stored.moment = 0;
        history_add_stored(cut, &stored);
    }
    for (unsigned i = 0; i < whole->forgotten_count; i++) {
        struct delay_forgotten forgotten = whole->forgotten[i];
        if (forgotten.moment > at) continue;
        forgotten.moment = 0;
        history_add_forgotten(cut, &forgotten);
    }
    return cut;
}

static struct delay_item *
history_item(struct delay_history *history, uint32_t id)
{
    for (unsigned i = 0; i < history->count; i++)
        if (history->items[i].id == id) return &history->items[i];
    return NULL;
}

/* `known`: by who is known still. What others have sent may come again. */
static unsigned
history_delivered(const struct delay_history *history, uint32_t id, bool known)
{
    unsigned times = 0;
    for (unsigned i = 0; i < history->stored_count; i++) {
        const struct delay_stored *stored = &history->stored[i];
        if (known && history_forgot(history, stored->target, stored->producer_id)) continue;
        for (uint32_t j = 0; j < stored->count; j++)
            if (stored->ids[j] == id) times++;
    }
    return times;
}

/* --- The brokers. */

static const char *
on_route(void *context, struct q_bytes subject, unsigned index)
{
    (void)context;
    /* The first subject has one broker group, the others both. */
    unsigned groups = subject.data[subject.size - 1] == '0' ? 1 : DELAY_TARGETS;
    return index < groups ? target_names[index] : NULL;
}

static uint64_t
limit_ms(const struct delay_client *client)
{
    int64_t off = client->off_ms;
    if (client->clock.monotonic_ns < client->old_until_ns && client->old_off_ms > off)
        off = client->old_off_ms;
    return (uint64_t)((int64_t)(client->clock.monotonic_ns / Q_NS_PER_MS) + off) + 1;
}

static void
item_check_time(struct delay_client *client, const struct delay_item *item)
{
    uint64_t due_ms = item->due_ms;
    if (item->move_asked) {
        due_ms = q_min_u64(due_ms, item->move_due_ms);
        if (promise_holds(&item->move)) due_ms = item->move_due_ms;
    }
    if (due_ms > limit_ms(client))
        verdict_add(
            client->verdict, VERDICT_PHANTOM, "number %u was delivered %llu ms early", item->id,
            (unsigned long long)(due_ms - limit_ms(client)));
}

static void
on_send(void *context, struct qlog_delay_send *send)
{
    struct delay_client *client = context;
    Q_ASSERT(client->send_count < DELAY_SENDS_MAX);
    client->sends[client->send_count++] = send;
    /* What is handed over again was due when it was handed over first, by the clock of that time. */
    struct qlog_delay_counters counters;
    qlog_delay_counters(client->delay, &counters);
    if (counters.repeats == client->repeats) send_check_time(client, send);
    client->repeats = counters.repeats;
}

static void
send_check_time(struct delay_client *client, const struct qlog_delay_send *send)
{
    struct qbatch_set_walk walk = {
        .envelopes = q_bytes_from(send->envelopes, send->envelopes_size),
        .payloads = q_bytes_from(send->payloads, send->payloads_size),
    };
    struct qbatch batch;
    const uint8_t *payload;
    while (qbatch_set_next(&walk, true, &batch, &payload) == Q_OK)
        for (uint32_t i = 0; i < batch.message_count; i++) {
            uint32_t id = qbatch_id_at(&batch, i).counter;
            const struct delay_item *item = history_item(client->history, id);
            if (item == NULL)
                verdict_add(client->verdict, VERDICT_PHANTOM, "number %u was never asked for", id);
            else
                item_check_time(client, item);
        }
}

static unsigned
target_of(const char *name)
{
    return strcmp(name, target_names[0]) == 0 ? 0 : 1;
}

static void
broker_serve(struct delay_client *client, bool well)
{
    for (unsigned i = 0; i < client->send_count;) {
        struct qlog_delay_send *send = client->sends[i];
        bool away = !well && client->away[target_of(send->broker_group)];
        if (!well && chance(client, 40)) {
            i++;
            continue;
        }
        bool fails = away || (!well && chance(client, client->plan->flaky));
        bool lost = fails && !away && chance(client, 50);
        enum q_err err = Q_UNAVAILABLE;
        if (!fails || lost) err = broker_store(client, send, well);
        client->sends[i] = client->sends[--client->send_count];
        qlog_delay_sent(client->delay, send, fails ? Q_UNAVAILABLE : err);
    }
}

static bool
is_refused(const struct delay_client *client, uint32_t id)
{
    return !client->takes_all && id * UINT32_C(2654435761) / 16 % 100 < client->plan->refuse;
}

static enum q_err
broker_store(struct delay_client *client, const struct qlog_delay_send *send, bool well)
{
    struct delay_history *history = client->history;
    uint32_t ids[IDS_MAX];
    struct delay_stored stored;
    broker_read(client, send, ids, &stored);
    bool numbered = send->request_sequence > 0 && send->settled <= send->request_sequence;
    if (!numbered) verdict_add(client->verdict, VERDICT_FAILED, "a request with a wrong number");
    if (history_forgot(history, stored.target, stored.producer_id)) return Q_UNKNOWN_PRODUCER;
    if (!well && chance(client, client->plan->forget)) {
        struct delay_forgotten forgotten = { .moment = stored.moment, .target = stored.target };
        memcpy(forgotten.producer_id, stored.producer_id, sizeof(forgotten.producer_id));
        history_add_forgotten(history, &forgotten);
        return Q_UNKNOWN_PRODUCER;
    }
    for (unsigned i = 0; i < history->stored_count; i++) {
        const struct delay_stored *old = &history->stored[i];
        if (old->target != stored.target || old->request != stored.request) continue;
        if (memcmp(old->producer_id, stored.producer_id, sizeof(stored.producer_id)) != 0) continue;
        if (old->hash != stored.hash)
            verdict_add(
                client->verdict, VERDICT_PHANTOM,
                "request %llu has changed since it was sent first",
                (unsigned long long)stored.request);
        if (!old->refused) return Q_OK; /* known: stored once */
    }
    for (uint32_t i = 0; i < stored.count; i++)
        stored.refused = stored.refused || is_refused(client, ids[i]);
    if (stored.refused) stored.count = 0;
    history_add_stored(history, &stored);
    return stored.refused ? Q_TOO_BIG : Q_OK;
}

static void
broker_read(
    struct delay_client *client,
    const struct qlog_delay_send *send,
    uint32_t ids[],
    struct delay_stored *ret_stored)
{
    struct delay_stored stored = {
        .moment = simdisk_now(client->disk),
        .target = target_of(send->broker_group),
        .request = send->request_sequence,
        .ids = ids,
    };
    stored.hash = qbatch_hash(q_bytes_from(send->envelopes, send->envelopes_size)) ^
                  qbatch_hash(q_bytes_from(send->payloads, send->payloads_size)) * 3;
    struct qbatch_set_walk walk = {
        .envelopes = q_bytes_from(send->envelopes, send->envelopes_size),
        .payloads = q_bytes_from(send->payloads, send->payloads_size),
    };
    struct qbatch batch;
    const uint8_t *payload;
    enum q_err err;
    uint32_t batches = 0;
    while ((err = qbatch_set_next(&walk, false, &batch, &payload)) == Q_OK) {
        bool good = qbatch_check_payload(&batch, payload) == Q_OK && !batch.delayed &&
                    batch.request_index == batches && batch.request_count == send->batch_count &&
                    batch.request_sequence == send->request_sequence;
        if (!good) verdict_add(client->verdict, VERDICT_PHANTOM, "a request that is not whole");
        memcpy(stored.producer_id, batch.producer_id, sizeof(stored.producer_id));
        for (uint32_t i = 0; i < batch.message_count && stored.count < IDS_MAX; i++)
            ids[stored.count++] = qbatch_id_at(&batch, i).counter;
        batches++;
    }
    if (err != Q_END || batches != send->batch_count || stored.count != send->message_count)
        verdict_add(client->verdict, VERDICT_PHANTOM, "a request that is damaged");
    *ret_stored = stored;
}

/* Numbers of requests have no gaps: a broker would wait for what is missing. */
static void
broker_check_numbers(struct delay_client *client)
{
    const struct delay_history *history = client->history;
    for (unsigned i = 0; i < history->stored_count; i++) {
        const struct delay_stored *at = &history->stored[i];
        bool found = at->request == 1 || history_forgot(history, at->target, at->producer_id);
        for (unsigned j = 0; j < history->stored_count && !found; j++)
            found = history->stored[j].target == at->target &&
                    history->stored[j].request == at->request - 1 &&
                    memcmp(history->stored[j].producer_id, at->producer_id, 16) == 0;
        if (!found)
            verdict_add(
                client->verdict, VERDICT_FAILED, "request %llu without the one before",
                (unsigned long long)at->request);
    }
}

/* --- The client. */

static void
on_event(void *context, const struct qlog_event *event)
{
    struct delay_client *client = context;
    if (event->kind == QLOG_EVENT_ROT)
        verdict_add_error(
            client->verdict, client->disk, "called rot, but it is a crash: %s at %llu", event->text,
            (unsigned long long)event->position);
    if (event->kind == QLOG_EVENT_BROKEN && !client->dying)
        verdict_add_error(client->verdict, client->disk, "the store broke: %s", event->text);
}

void
delay_client_init(
    struct delay_client *client,
    struct delay_history *history,
    uint64_t seed,
    struct simdisk *disk,
    struct verdict *verdict)
{
    *client = (struct delay_client){
        .history = history,
        .plan = history->plan,
        .disk = disk,
        .verdict = verdict,
        .random = { .state = seed },
    };
    q_clock_manual_init(&client->clock);
    client->clock.monotonic_ns = history->monotonic_ns;
    client->clock.wall_ms = history->wall_ms;
    client->observer = (struct qlog_observer){ client, on_event };
}

bool
delay_client_open(struct delay_client *client)
{
    struct qlog_delay_options options = {
        .log = {
            .io = simdisk_io(client->disk),
            .clock = &client->clock.clock,
            .observer = &client->observer,
            .segment_bytes = client->plan->segment,
            .create = true,
        },
        .sender = { client, on_route, on_send },
        .send_messages_max = 6,
        .round_bytes = client->plan->round,
        /* None is forgotten: each run ends up to two years later, and runs begin where others ended. */
        .producer_keep_ms = UINT64_MAX,
    };
    if (chance(client, client->plan->harm)) delay_client_harm(client);
    enum q_err err = qlog_delay_open(directory, &options, &client->delay);
    /* A start takes the wall clock as it is. */
    client->off_ms =
        (int64_t)client->clock.wall_ms - (int64_t)(client->clock.monotonic_ns / Q_NS_PER_MS);
    client->stepped_ns = 0;
    client->old_until_ns = 0;
    client->repeats = 0;
    if (err == Q_OK) delay_publish_again(client);
    if (err == Q_OK) return true;
    char text[Q_FAULT_LINE_MAX];
    client->delay = NULL;
    verdict_add_error(
        client->verdict, client->disk, "open: %s: %s", q_err_name(err),
        q_fault_format(q_fault_last(), text, sizeof(text)));
    return false;
}

void
delay_client_fini(struct delay_client *client)
{
    if (client->delay != NULL) (void)delay_client_close(client);
    free(client->old_file);
}

bool
delay_client_close(struct delay_client *client)
{
    client->send_count = 0;
    enum q_err err = qlog_delay_close(client->delay);
    client->delay = NULL;
    if (err != Q_OK) verdict_add_error(client->verdict, client->disk, "close: %s", q_err_name(err));
    return err == Q_OK;
}

void
delay_client_stop(struct delay_client *client, bool kill)
{
    client->dying = true;
    client->send_count = 0;
    simdisk_die(client->disk);
    (void)qlog_delay_close(client->delay);
    client->delay = NULL;
    client->dying = false;
    struct crash_rule rule = simdisk_random_rule(client->disk, random_u64(&client->random), kill);
    uint64_t now = simdisk_now(client->disk);
    for (unsigned i = 0; !kill && i < client->history->count; i++)
        promise_void(&client->history->items[i].promise, now);
    simdisk_crash(client->disk, &rule);
}

bool
delay_client_step(struct delay_client *client)
{
    const struct delay_plan *plan = client->plan;
    static const unsigned ms[] = { 1, 7, 120, 1100, 5000, 31000 };
    if (chance(client, plan->away)) {
        unsigned target = random_below(&client->random, DELAY_TARGETS);
        client->away[target] = !client->away[target];
        qlog_delay_wake(client->delay);
    }
    if (chance(client, plan->clock)) client_step_clock(client);
    delay_publish(client);
    if (chance(client, plan->cancel)) client_cancel(client);
    if (chance(client, plan->move)) client_move(client);
    for (unsigned i = random_below(&client->random, 6); i > 0; i--)
        if (!client_turn(client)) return false;
    if (chance(client, 60) && !client_drain(client)) return false;
    if (chance(client, plan->sleep)) {
        client_sleep(client, ms[random_below(&client->random, 6)]);
        for (unsigned i = 0; i < 4; i++)
            if (!client_turn(client)) return false;
    }
    if (chance(client, 10)) client_check_list(client);
    if (chance(client, plan->clean)) {
        if (!client_drain(client) || !delay_client_close(client)) return false;
        return delay_client_open(client);
    }
    bool kill = chance(client, plan->kill);
    if (!kill && !chance(client, plan->power)) return verdict_is_good(client->verdict);
    delay_client_stop(client, kill);
    return delay_client_open(client);
}

/* Both clocks move; a step that has lasted is what time it is now. */
static void
client_sleep(struct delay_client *client, uint64_t ms)
{
    q_clock_manual_advance_ns(&client->clock, ms * Q_NS_PER_MS);
    uint64_t now_ns = client->clock.monotonic_ns;
    if (client->stepped_ns == 0) return;
    if (now_ns - client->stepped_ns < (uint64_t)CONFIRM_MS * Q_NS_PER_MS) return;
    client->old_off_ms = client->off_ms;
    /* The store may look a while later than that. */
    client->old_until_ns = now_ns + 10 * (uint64_t)CONFIRM_MS * Q_NS_PER_MS;
    client->off_ms =
        (int64_t)client->clock.wall_ms - (int64_t)(client->clock.monotonic_ns / Q_NS_PER_MS);
    client->stepped_ns = 0;
}

/* A step of the wall clock, or back from one that did not last. */
static void
client_step_clock(struct delay_client *client)
{
    if (client->stepped_ns != 0) {
        client->clock.wall_ms =
            (uint64_t)((int64_t)(client->clock.monotonic_ns / Q_NS_PER_MS) + client->off_ms);
        client->stepped_ns = 0;
        (void)client_turn(client);
        return;
    }
    uint64_t step = 61000 + random_u64(&client->random) % (UINT64_C(86400) * 1000);
    client->clock.wall_ms += random_below(&client->random, 2) == 0 ? step : -step;
    client->stepped_ns = client->clock.monotonic_ns;
    (void)client_turn(client);
}

static bool
client_turn(struct delay_client *client)
{
    broker_serve(client, false);
    enum q_err err = qlog_delay_turn(client->delay);
    if (err == Q_OK) err = qlog_delay_wait(client->delay, Q_NS_PER_MS);
    client_sleep(client, random_below(&client->random, 2));
    if (err != Q_OK) verdict_add_error(client->verdict, client->disk, "turn: %s", q_err_name(err));
    return err == Q_OK && verdict_is_good(client->verdict);
}

static bool
client_drain(struct delay_client *client)
{
    for (unsigned i = 0; client->outstanding > 0; i++) {
        if (i == TURNS_MAX) {
            verdict_add(client->verdict, VERDICT_HUNG, "requests are never answered");
            return false;
        }
        if (!client_turn(client)) return false;
    }
    return true;
}

/* --- Cancel and move. */

/* One that is there for sure; -1: none. */
static int
pick_item(struct delay_client *client)
{
    for (unsigned i = 0; i < 8 && client->history->count > 0; i++) {
        unsigned at = random_below(&client->random, client->history->count);
        const struct delay_item *item = &client->history->items[at];
        bool unsure = item->cancel_asked || (item->move_asked && !promise_holds(&item->move));
        if (promise_holds(&item->promise) && !unsure) return (int)at;
    }
    return -1;
}

static struct qlog_delay_name
name_of(struct delay_client *client, const struct delay_item *item)
{
    struct qlog_delay_name name = {
        .due_ms = item->move_asked ? item->move_due_ms : item->due_ms,
        .sequence = item->move_asked ? item->move_sequence : item->sequence,
        .id_time_ms = 1700000000000,
        .id_producer = UINT64_C(0x5a5a5a5a5a5a),
        .id_counter = item->id,
    };
    if (chance(client, 30)) name.sequence = QLOG_DELAY_BY_ID;
    return name;
}

/* Whether `err` can be an answer about this message. */
static void
check_refusal(struct delay_client *client, const struct delay_item *item, enum q_err err)
{
    if (client->dying || err == Q_BUSY || err == Q_BEING_DELIVERED) return;
    if (err == Q_NOT_FOUND && history_delivered(client->history, item->id, false) > 0) return;
    verdict_add_error(
        client->verdict, client->disk, "number %u waits, and is answered %s", item->id,
        q_err_name(err));
}

static void
on_cancelled(struct qlog_delay_request *request, enum q_err err)
{
    struct cancel *cancel = request->context;
    struct delay_client *client = cancel->client;
    struct delay_item *item = &client->history->items[cancel->item];
    client->outstanding--;
    if (err == Q_OK) {
        item->cancel.answered = simdisk_now(client->disk);
        item->cancel.durable = item->cancel.answered;
        if (history_delivered(client->history, item->id, true) > 0)
            verdict_add(
                client->verdict, VERDICT_PHANTOM, "number %u is cancelled after its delivery",
                item->id);
    } else {
        check_refusal(client, item, err);
        if (!client->dying) item->cancel_asked = false;
    }
    free(cancel);
}

static void
client_cancel(struct delay_client *client)
{
    int at = pick_item(client);
    if (at < 0) return;
    struct delay_item *item = &client->history->items[at];
    struct cancel *cancel = calloc(1, sizeof(*cancel));
    cancel->client = client;
    cancel->item = (unsigned)at;
    cancel->cancel.name = name_of(client, item);
    cancel->cancel.request =
        (struct qlog_delay_request){ QLOG_DELAY_CANCEL, on_cancelled, cancel, { NULL } };
    item->cancel_asked = true;
    item->cancel = promise_new(simdisk_now(client->disk));
    client->outstanding++;
    enum q_err err = qlog_delay_submit(client->delay, &cancel->cancel.request);
    Q_ASSERT(err == Q_OK);
}

static void
on_moved(struct qlog_delay_request *request, enum q_err err)
{
    struct move *move = request->context;
    struct delay_client *client = move->client;
    struct delay_item *item = &client->history->items[move->item];
    client->outstanding--;
    if (err == Q_OK) {
        item->move.answered = simdisk_now(client->disk);
        item->move.durable = item->move.answered;
        item->move_sequence = move->move.ret_sequence;
    } else {
        check_refusal(client, item, err);
        if (!client->dying) item->move_asked = false;
    }
    free(move);
}

static void
item_asked_to_move(struct delay_client *client, struct delay_item *item, uint64_t due_ms)
{
    Q_ASSERT(item->moves < DELAY_MOVES_MAX);
    item->moved_to[item->moves++] = due_ms;
    item->move_asked = true;
    item->move_due_ms = due_ms;
    item->move = promise_new(simdisk_now(client->disk));
}

/* Its own time, or one that it was to be moved to. */
static bool
item_may_be_due(const struct delay_item *item, uint64_t due_ms)
{
    bool may = item->due_ms == due_ms;
    for (unsigned i = 0; i < item->moves; i++)
        may |= item->moved_to[i] == due_ms;
    return may;
}

static void
client_move(struct delay_client *client)
{
    int at = pick_item(client);
    if (at < 0 || client->history->items[at].move_asked) return;
    struct delay_item *item = &client->history->items[at];
    struct move *move = calloc(1, sizeof(*move));
    move->client = client;
    move->item = (unsigned)at;
    move->move.name = name_of(client, item);
    move->move.due_ms = delay_random_due(client);
    move->move.request =
        (struct qlog_delay_request){ QLOG_DELAY_RESCHEDULE, on_moved, move, { NULL } };
    item_asked_to_move(client, item, move->move.due_ms);
    client->outstanding++;
    enum q_err err = qlog_delay_submit(client->delay, &move->move.request);
    Q_ASSERT(err == Q_OK);
}

/* --- What is told. */

struct listing {
    struct qlog_delay_list list;
    bool done;
    enum q_err err;
};

static void
on_listed(struct qlog_delay_request *request, enum q_err err)
{
    struct listing *listing = request->context;
    listing->done = true;
    listing->err = err;
}

/* A list has every message that waits, once and in order. */
static void
client_check_list(struct delay_client *client)
{
    if (!client_drain(client)) return;
    struct qlog_delay_message *messages = calloc(LIST_MAX, sizeof(*messages));
    struct listing listing = {
        .list = { .to_ms = UINT64_MAX, .messages = messages, .messages_max = LIST_MAX },
    };
    listing.list.request =
        (struct qlog_delay_request){ QLOG_DELAY_LIST, on_listed, &listing, { NULL } };
    enum q_err err = qlog_delay_submit(client->delay, &listing.list.request);
    Q_ASSERT(err == Q_OK);
    for (unsigned i = 0; !listing.done && i < 100; i++)
        if (!client_turn(client)) break;
    struct qlog_delay_counters counters;
    qlog_delay_counters(client->delay, &counters);
    if (listing.done && listing.err != Q_OK)
        verdict_add_error(client->verdict, client->disk, "list: %s", q_err_name(listing.err));
    for (uint32_t i = 0; listing.done && i < listing.list.ret_count; i++) {
        const struct delay_item *item = history_item(client->history, messages[i].id_counter);
        bool known = item != NULL && item_may_be_due(item, messages[i].due_ms);
        bool gone = item != NULL && item->cancel_asked && promise_holds(&item->cancel);
        if (!known || gone)
            verdict_add(
                client->verdict, VERDICT_PHANTOM, "a list tells number %u due at %llu",
                messages[i].id_counter, (unsigned long long)messages[i].due_ms);
        for (uint32_t j = 0; j < i; j++)
            if (messages[j].id_counter == messages[i].id_counter)
                verdict_add(
                    client->verdict, VERDICT_PHANTOM, "a list tells number %u twice",
                    messages[i].id_counter);
        if (i > 0 && messages[i - 1].due_ms > messages[i].due_ms)
            verdict_add(client->verdict, VERDICT_FAILED, "a list is in no order");
    }
    if (listing.done)
        free(messages);
    else
        verdict_add_error(client->verdict, client->disk, "a list is never answered");
}

/* --- The end. */

/* Another time is another try. */
static void
client_try_again(struct delay_client *client, const struct qlog_delay_message *message)
{
    struct delay_item *item = history_item(client->history, message->id_counter);
    if (item == NULL) return; /* a list was told of what nobody asked for; it is found there */
    struct move *move = calloc(1, sizeof(*move));
    move->client = client;
    move->item = (unsigned)(item - client->history->items);
    move->move.name =
        (struct qlog_delay_name){ .due_ms = message->due_ms, .sequence = message->sequence };
    move->move.due_ms = client->clock.wall_ms;
    move->move.request =
        (struct qlog_delay_request){ QLOG_DELAY_RESCHEDULE, on_moved, move, { NULL } };
    item_asked_to_move(client, item, move->move.due_ms);
    client->outstanding++;
    enum q_err err = qlog_delay_submit(client->delay, &move->move.request);
    Q_ASSERT(err == Q_OK);
}

/* A list of what was refused, and each of it once more. */
static void
client_try_refused(struct delay_client *client)
{
    struct qlog_delay_message *messages = calloc(LIST_MAX, sizeof(*messages));
    struct listing listing = {
        .list = { .to_ms = UINT64_MAX, .messages = messages, .messages_max = LIST_MAX },
    };
    listing.list.request =
        (struct qlog_delay_request){ QLOG_DELAY_LIST, on_listed, &listing, { NULL } };
    enum q_err err = qlog_delay_submit(client->delay, &listing.list.request);
    Q_ASSERT(err == Q_OK);
    while (!listing.done && finish_turn(client))
        ;
    for (uint32_t i = 0; listing.done && i < listing.list.ret_count; i++)
        if (messages[i].refused != Q_OK) client_try_again(client, &messages[i]);
    if (listing.done) free(messages);
    while (client->outstanding > 0 && finish_turn(client))
        ;
}

static bool
finish_turn(struct delay_client *client)
{
    broker_serve(client, true);
    enum q_err err = qlog_delay_turn(client->delay);
    if (err == Q_OK) err = qlog_delay_wait(client->delay, Q_NS_PER_MS);
    if (err != Q_OK) verdict_add_error(client->verdict, client->disk, "turn: %s", q_err_name(err));
    return err == Q_OK && verdict_is_good(client->verdict);
}

bool
delay_client_finish(struct delay_client *client)
{
    if (!client_drain(client)) return false;
    memset(client->away, 0, sizeof(client->away));
    client->takes_all = true;
    qlog_delay_wake(client->delay);
    struct qlog_delay_counters counters = { .pending = 1 };
    for (unsigned i = 0; counters.pending + counters.open > 0; i++) {
        if (i == FINISH_MAX) {
            verdict_add(
                client->verdict, VERDICT_LOST,
                "%llu messages wait for ever, %llu requests are open",
                (unsigned long long)counters.pending, (unsigned long long)counters.open);
            return false;
        }
        if (!finish_turn(client)) return false;
        if (client->plan->refuse > 0 && i % RETRY_TURNS == RETRY_TURNS / 2)
            client_try_refused(client);
        qlog_delay_counters(client->delay, &counters);
        /* From one due time to the next. */
        uint64_t now_ms = limit_ms(client);
        uint64_t next_ms = UINT64_MAX;
        for (unsigned j = 0; i % 16 == 15 && j < client->history->count; j++) {
            const struct delay_item *item = &client->history->items[j];
            uint64_t dues[] = { item->due_ms, item->move_asked ? item->move_due_ms : 0 };
            for (unsigned k = 0; k < 2; k++)
                if (dues[k] > now_ms) next_ms = q_min_u64(next_ms, dues[k]);
        }
        client_sleep(client, next_ms == UINT64_MAX ? 10 : next_ms - now_ms);
    }
    for (unsigned i = 0; i < client->history->count; i++) {
        const struct delay_item *item = &client->history->items[i];
        unsigned times = history_delivered(client->history, item->id, true);
        bool lost = history_delivered(client->history, item->id, false) == 0;
        bool cancelled = item->cancel_asked && promise_holds(&item->cancel);
        if (times > 1)
            verdict_add(
                client->verdict, VERDICT_PHANTOM, "number %u was delivered %u times", item->id,
                times);
        if (times > 0 && cancelled)
            verdict_add(
                client->verdict, VERDICT_PHANTOM, "number %u was cancelled, and delivered",
                item->id);
        if (lost && promise_holds(&item->promise) && !item->cancel_asked)
            verdict_add(client->verdict, VERDICT_LOST, "number %u was never delivered", item->id);
    }
    broker_check_numbers(client);
    client->history->monotonic_ns = client->clock.monotonic_ns;
    client->history->wall_ms = client->clock.wall_ms;
    return verdict_is_good(client->verdict);
}

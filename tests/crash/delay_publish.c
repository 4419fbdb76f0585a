#include "delay_publish.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbatch/batch.h>
#include <qbatch/build.h>

enum {
    SUBJECTS = 3,
    AGAIN_MAX = 16, /* of the last requests of a producer: one of them may be sent again */
};

/* A sending under way, with all its memory. */
struct sending {
    struct qlog_delay_publish publish;
    struct delay_client *client;
    unsigned request; /* in the history */
    bool was_stored;  /* it had an answer when this was sent */
    uint64_t sequences[DELAY_BATCHES_MAX];
    struct q_bytes subjects[DELAY_BATCHES_MAX];
    char names[DELAY_BATCHES_MAX][16];
    uint8_t *bytes;
};

static unsigned request_new(struct delay_client *client, unsigned producer);
static void request_fill(
    struct delay_client *client, struct delay_request *request, struct qbatch_builder *builders[]);
static void request_send(struct delay_client *client, unsigned number, bool again);
static void on_published(struct qlog_delay_request *request, enum q_err err);
static bool waited_in_vain(const struct delay_history *history, const struct sending *sending);
static bool may_be_unknown(const struct delay_history *history, unsigned producer);

static bool
chance(struct delay_client *client, unsigned percent)
{
    return random_below(&client->random, 100) < percent;
}

/* Its producer has an outcome. */
static bool
is_settled(const struct delay_request *request)
{
    return request->answered != MEDIA_NEVER || request->given_up != MEDIA_NEVER;
}

static bool
request_holds(const struct delay_history *history, const struct delay_request *request)
{
    return promise_holds(&history->items[request->first_item].promise);
}

void
delay_publish(struct delay_client *client)
{
    struct delay_history *history = client->history;
    unsigned producer = random_below(&client->random, DELAY_PRODUCERS);
    unsigned first = request_new(client, producer);
    if (chance(client, client->plan->repeat)) {
        /* The second one overtakes the first. */
        unsigned second = request_new(client, producer);
        request_send(client, second, false);
    }
    request_send(client, first, false);
    if (!chance(client, client->plan->repeat)) return;
    unsigned back = random_below(&client->random, AGAIN_MAX) + 1;
    if (back > history->request_count) return;
    unsigned at = history->request_count - back;
    const struct delay_request *request = &history->requests[at];
    bool known = request->answered == MEDIA_NEVER || request_holds(history, request);
    if (known && request->given_up == MEDIA_NEVER) request_send(client, at, true);
}

void
delay_publish_again(struct delay_client *client)
{
    const struct delay_history *history = client->history;
    for (unsigned i = 0; i < history->request_count; i++)
        if (!is_settled(&history->requests[i])) request_send(client, i, true);
}

uint64_t
delay_random_due(struct delay_client *client)
{
    uint64_t now_ms = client->clock.wall_ms;
    struct random_source *random = &client->random;
    if (chance(client, client->plan->far))
        return now_ms + random_u64(random) % (UINT64_C(700) * 86400 * 1000);
    switch (random_below(random, 6)) {
    case 0:
        return now_ms - random_below(random, 5000);
    case 1:
        return now_ms;
    case 2:
        return now_ms / 1000 * 1000 + 1000; /* shared by many */
    case 3:
        return now_ms + random_below(random, 40000);
    default:
        return now_ms + random_below(random, 300);
    }
}

/* --- Requests. */

/* Producers differ in what ids of messages do not tell. */
static void
producer_id(unsigned producer, uint8_t id[16])
{
    memset(id, 0x5a, 16);
    id[15] = (uint8_t)producer;
}

static uint64_t
next_number(const struct delay_history *history, unsigned producer)
{
    uint64_t number = 1;
    for (unsigned i = 0; i < history->request_count; i++)
        if (history->requests[i].producer == producer) number++;
    return number;
}

static uint64_t
settled_below(const struct delay_history *history, const struct delay_request *request)
{
    for (unsigned i = 0; i < history->request_count; i++) {
        const struct delay_request *other = &history->requests[i];
        if (other->producer == request->producer && !is_settled(other))
            return q_min_u64(other->number, request->number);
    }
    return request->number;
}

static struct delay_request *
history_add_request(struct delay_history *history)
{
    history->requests =
        realloc(history->requests, (history->request_count + 1) * sizeof(history->requests[0]));
    Q_ASSERT(history->requests != NULL);
    return &history->requests[history->request_count++];
}

static unsigned
request_new(struct delay_client *client, unsigned producer)
{
    struct delay_history *history = client->history;
    struct qbatch_builder *builders[DELAY_BATCHES_MAX];
    uint64_t number = next_number(history, producer);
    struct delay_request *request = history_add_request(history);
    *request = (struct delay_request){
        .submitted = simdisk_now(client->disk),
        .answered = MEDIA_NEVER,
        .given_up = MEDIA_NEVER,
        .producer = producer,
        .number = number,
        .first_item = history->count,
        .batch_count = random_below(&client->random, DELAY_BATCHES_MAX) + 1,
        .async = chance(client, client->plan->async),
    };
    request_fill(client, request, builders);
    request->bytes = malloc((size_t)request->envelopes_size + request->payloads_size + 1);
    Q_ASSERT(request->bytes != NULL);
    uint8_t *envelope = request->bytes;
    uint8_t *payload = request->bytes + request->envelopes_size;
    for (uint32_t i = 0; i < request->batch_count; i++) {
        struct qbatch_request_place place = { number, i, request->batch_count, request->dues[i] };
        qbatch_builder_write(builders[i], &place, envelope, payload);
        qbatch_builder_free(builders[i]);
        envelope += request->sizes[i][0];
        payload += request->sizes[i][1];
    }
    return history->request_count - 1;
}

static void
request_fill(
    struct delay_client *client, struct delay_request *request, struct qbatch_builder *builders[])
{
    struct delay_history *history = client->history;
    struct random_source *random = &client->random;
    for (uint32_t i = 0; i < request->batch_count; i++) {
        struct qbatch_builder_options options = { .compress = random_below(random, 2) == 0 };
        producer_id(request->producer, options.producer_id);
        enum q_err err = qbatch_builder_new(&options, &builders[i]);
        Q_ASSERT(err == Q_OK);
        request->subjects[i] = random_below(random, SUBJECTS);
        request->dues[i] = delay_random_due(client);
        request->counts[i] = random_below(random, client->plan->burst) + 1;
        for (uint32_t j = 0; j < request->counts[i]; j++) {
            uint8_t body[4096] = { 0 };
            struct delay_item *item = delay_history_add_item(history);
            *item = (struct delay_item){
                .id = history->next_id++,
                .subject = request->subjects[i],
                .due_ms = request->dues[i],
                .promise = promise_new(simdisk_now(client->disk)),
            };
            struct qbatch_message message = {
                .body = q_bytes_from(body, random_below(random, client->plan->body)),
                .time_ms = 1700000000000,
                .counter = item->id,
            };
            err = qbatch_builder_add(builders[i], &message);
            Q_ASSERT(err == Q_OK);
        }
        uint32_t *sizes = request->sizes[i];
        err = qbatch_builder_close(builders[i], &sizes[0], &sizes[1]);
        Q_ASSERT(err == Q_OK);
        request->envelopes_size += sizes[0];
        request->payloads_size += sizes[1];
    }
}

void
delay_requests_cut(struct delay_history *cut, const struct delay_history *whole, uint64_t at)
{
    for (unsigned i = 0; i < whole->request_count; i++) {
        const struct delay_request *request = &whole->requests[i];
        if (request->submitted > at) continue;
        struct delay_request *copy = history_add_request(cut);
        size_t size = (size_t)request->envelopes_size + request->payloads_size;
        *copy = *request;
        copy->submitted = 0;
        copy->answered = request->answered <= at ? 0 : MEDIA_NEVER;
        copy->given_up = request->given_up <= at ? 0 : MEDIA_NEVER;
        copy->bytes = malloc(size + 1);
        Q_ASSERT(copy->bytes != NULL);
        memcpy(copy->bytes, request->bytes, size);
    }
}

void
delay_requests_free(struct delay_history *history)
{
    for (unsigned i = 0; i < history->request_count; i++)
        free(history->requests[i].bytes);
    free(history->requests);
}

/* --- Sending. */

static void
request_send(struct delay_client *client, unsigned number, bool again)
{
    const struct delay_request *request = &client->history->requests[number];
    size_t size = (size_t)request->envelopes_size + request->payloads_size;
    struct sending *sending = calloc(1, sizeof(*sending));
    struct qlog_publish *what = &sending->publish.publish;
    sending->client = client;
    sending->request = number;
    sending->was_stored = request->answered != MEDIA_NEVER;
    sending->bytes = malloc(size + 1);
    Q_ASSERT(sending->bytes != NULL);
    /* A store writes into what it is given. */
    memcpy(sending->bytes, request->bytes, size);
    for (uint32_t i = 0; i < request->batch_count; i++) {
        char *name = sending->names[i];
        (void)snprintf(name, sizeof(sending->names[i]), "subject-%u", request->subjects[i]);
        sending->subjects[i] = q_bytes_from_text(name);
    }
    what->envelopes = sending->bytes;
    what->envelopes_size = request->envelopes_size;
    what->payloads = sending->bytes + request->envelopes_size;
    what->payloads_size = request->payloads_size;
    what->batch_count = request->batch_count;
    what->subjects = sending->subjects;
    what->ret_first_sequences = sending->sequences;
    what->mode =
        request->async && !(again && chance(client, 30)) ? QLOG_MODE_ASYNC : QLOG_MODE_DEFAULT;
    what->settled = settled_below(client->history, request);
    what->again = again;
    sending->publish.request =
        (struct qlog_delay_request){ QLOG_DELAY_PUBLISH, on_published, sending, { NULL } };
    client->outstanding++;
    enum q_err err = qlog_publish_check(what);
    if (err == Q_OK) err = qlog_delay_submit(client->delay, &sending->publish.request);
    Q_ASSERT(err == Q_OK);
}

/* The answer says where its messages are; one that comes again says the same. */
static void
request_answered(struct delay_client *client, const struct sending *sending)
{
    struct delay_history *history = client->history;
    struct delay_request *request = &history->requests[sending->request];
    const struct qlog_publish *what = &sending->publish.publish;
    uint64_t now = simdisk_now(client->disk);
    bool known = request->answered != MEDIA_NEVER;
    if (sending->was_stored && !what->duplicate)
        verdict_add(
            client->verdict, VERDICT_PHANTOM, "request %llu is stored again",
            (unsigned long long)request->number);
    struct delay_item *item = &history->items[request->first_item];
    for (uint32_t i = 0; i < request->batch_count; i++)
        for (uint32_t j = 0; j < request->counts[i]; j++, item++) {
            uint64_t sequence = sending->sequences[i] + j;
            if (known && item->sequence != sequence)
                verdict_add(
                    client->verdict, VERDICT_PHANTOM, "number %u has handle %llu, and had %llu",
                    item->id, (unsigned long long)sequence, (unsigned long long)item->sequence);
            item->sequence = sequence;
            if (!known) {
                item->promise.answered = now;
                item->promise.voided = MEDIA_NEVER;
            }
            bool durable = what->achieved == QLOG_MODE_SYNC;
            if (durable && item->promise.durable == MEDIA_NEVER) item->promise.durable = now;
        }
    if (!known) request->answered = now;
}

static void
on_published(struct qlog_delay_request *store_request, enum q_err err)
{
    struct sending *sending = store_request->context;
    struct delay_client *client = sending->client;
    struct delay_request *request = &client->history->requests[sending->request];
    client->outstanding--;
    if (err == Q_OK)
        request_answered(client, sending);
    else if (
        err == Q_UNKNOWN_PRODUCER && sending->publish.publish.again && !is_settled(request) &&
        may_be_unknown(client->history, request->producer))
        request->given_up = simdisk_now(client->disk);
    else if (err == Q_OUT_OF_SEQUENCE && !client->dying && waited_in_vain(client->history, sending))
        request_send(client, sending->request, true);
    else if (!client->dying)
        verdict_add_error(
            client->verdict, client->disk, "request %llu of producer %u ended: %s: %s",
            (unsigned long long)request->number, request->producer, q_err_name(err),
            q_fault_last()->what);
    free(sending->bytes);
    free(sending);
}

/* It waited for one that its producer has given up since: sent again, it says so. */
static bool
waited_in_vain(const struct delay_history *history, const struct sending *sending)
{
    const struct delay_request *request = &history->requests[sending->request];
    return !is_settled(request) &&
           settled_below(history, request) > sending->publish.publish.settled;
}

/* Power may have taken all that there was of it. */
static bool
may_be_unknown(const struct delay_history *history, unsigned producer)
{
    for (unsigned i = 0; i < history->request_count; i++) {
        const struct delay_request *request = &history->requests[i];
        bool answered = request->answered != MEDIA_NEVER && request_holds(history, request);
        if (request->producer == producer && answered) return false;
    }
    return true;
}

#include "consume/producer.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/clock.h>

#include "format/block.h"

enum {
    RESULTS_FIRST = 4,
    RESULTS_MAX = QL_PRODUCER_RESULTS_MAX,
    TRIES_MAX = 64, /* producers that are looked at before one is forgotten, or none */
};

static enum q_err producers_new(
    struct ql_producers *table,
    const uint8_t id[16],
    uint64_t now_ms,
    struct ql_producer **ret_producer);
static enum q_err producers_room(struct ql_producers *table);
static bool producers_forget_one(struct ql_producers *table, uint64_t seen_before_ms);
static void producers_forget(struct ql_producers *table, struct ql_producer *producer);
static bool is_over(
    const struct ql_producers *table, const struct ql_producer *producer, uint64_t now_ms);
static bool producer_is_busy(const struct ql_producer *producer);
static enum q_err judge_known(
    const struct ql_producer *producer,
    const struct ql_request_name *name,
    enum ql_request_verdict *ret_verdict,
    struct ql_result *ret_result);
static void let_go(struct ql_waiting *waiting);
static enum q_err results_reach(struct ql_producer *producer, uint64_t next, uint64_t low);
static uint64_t results_first(const struct ql_producer *producer);
static enum q_err results_grow(struct ql_producer *producer);

static struct ql_result *
result_at(const struct ql_producer *producer, uint64_t sequence)
{
    return &producer->results[sequence & (producer->capacity - 1)];
}

/* NULL: not known, or not any more. */
static struct ql_result *
result_of(const struct ql_producer *producer, uint64_t sequence)
{
    bool inside = sequence < producer->next && producer->next - sequence <= producer->capacity;
    if (!inside) return NULL;
    struct ql_result *result = result_at(producer, sequence);
    return result->frame == QL_RESULT_NONE ? NULL : result;
}

static uint64_t
hash_id(const uint8_t id[16])
{
    return ql_hash(id, 16);
}

static bool
is_producer(const void *key, uint32_t value, const void *context)
{
    const struct ql_producers *table = context;
    return memcmp(table->producers[value]->id, key, 16) == 0;
}

void
ql_producers_init(struct ql_producers *table, uint32_t max, uint64_t keep_ms)
{
    *table = (struct ql_producers){ .max = max, .keep_ms = keep_ms };
    q_list_init(&table->early);
}

void
ql_producers_fini(struct ql_producers *table)
{
    Q_ASSERT(q_list_is_empty(&table->early));
    for (uint32_t i = 0; i < table->count; i++)
        if (table->producers[i] != NULL) producers_forget(table, table->producers[i]);
    free(table->producers);
    free(table->free);
    q_map_fini(&table->by_id);
    q_heap_fini(&table->by_age);
    *table = (struct ql_producers){ 0 };
}

struct ql_producer *
ql_producers_find(const struct ql_producers *table, const uint8_t id[16])
{
    uint32_t number;
    bool found = q_map_get(&table->by_id, hash_id(id), is_producer, id, table, &number);
    return found ? table->producers[number] : NULL;
}

/* --- What is to be done with a request. */

enum q_err
ql_producers_judge(
    struct ql_producers *table,
    const struct ql_request_name *name,
    uint64_t now_ms,
    enum ql_request_verdict *ret_verdict,
    struct ql_producer **ret_producer,
    struct ql_result *ret_result)
{
    Q_ASSERT(name->sequence > 0 && name->settled <= name->sequence);
    struct ql_producer *producer = ql_producers_find(table, name->producer);
    if (producer != NULL && is_over(table, producer, now_ms)) {
        producers_forget(table, producer);
        producer = NULL;
    }
    if (producer == NULL) {
        if (name->again && name->sequence > 1)
            return Q_FAIL(
                Q_UNKNOWN_PRODUCER,
                .what = q_text(
                    "request %llu was sent before, by a producer that is not known here",
                    (unsigned long long)name->sequence));
        Q_TRY(producers_new(table, name->producer, now_ms, &producer));
    }
    producer->seen_ms = q_max_u64(producer->seen_ms, now_ms);
    *ret_producer = producer;
    if (name->sequence < producer->next)
        return judge_known(producer, name, ret_verdict, ret_result);
    if (name->settled > producer->next)
        Q_TRY(results_reach(producer, name->settled, name->settled));
    *ret_verdict = name->sequence == producer->next ? QL_REQUEST_DUE : QL_REQUEST_EARLY;
    if (*ret_verdict == QL_REQUEST_DUE || producer->early_count < QL_EARLY_MAX) return Q_OK;
    return Q_FAIL(
        Q_OUT_OF_SEQUENCE, .what = q_text(
                               "request %llu came when %llu was due, and %u others are held",
                               (unsigned long long)name->sequence,
                               (unsigned long long)producer->next, producer->early_count));
}

static enum q_err
judge_known(
    const struct ql_producer *producer,
    const struct ql_request_name *name,
    enum ql_request_verdict *ret_verdict,
    struct ql_result *ret_result)
{
    const struct ql_result *result = result_of(producer, name->sequence);
    if (result == NULL)
        return Q_FAIL(
            Q_OUT_OF_SEQUENCE,
            .what = q_text(
                "request %llu was given up, or is too old to be known; %llu is due",
                (unsigned long long)name->sequence, (unsigned long long)producer->next));
    if (result->digest != name->digest || result->batch_count != name->batch_count)
        return Q_FAIL(
            Q_CONFLICT, .what = q_text(
                            "request %llu of this producer is stored, with other bytes",
                            (unsigned long long)name->sequence));
    *ret_verdict = result->frame == QL_RESULT_QUEUED ? QL_REQUEST_QUEUED : QL_REQUEST_STORED;
    *ret_result = *result;
    return Q_OK;
}

enum q_err
ql_producer_take(struct ql_producer *producer, const struct ql_request_name *name)
{
    Q_ASSERT(name->sequence == producer->next);
    Q_TRY(results_reach(producer, name->sequence + 1, name->sequence));
    *result_at(producer, name->sequence) = (struct ql_result){
        .frame = QL_RESULT_QUEUED,
        .digest = name->digest,
        .batch_count = name->batch_count,
    };
    producer->queued++;
    return Q_OK;
}

void
ql_producer_place(struct ql_producer *producer, uint64_t sequence, const struct ql_result *place)
{
    struct ql_result *result = result_of(producer, sequence);
    producer->queued--;
    /* So far behind, nobody asks for it any more. */
    if (result == NULL || result->frame != QL_RESULT_QUEUED) return;
    result->frame = place->frame;
    result->from = place->from;
    result->to = place->to;
}

void
ql_producer_untake(struct ql_producer *producer, uint64_t sequence)
{
    producer->queued--;
    for (uint64_t at = sequence; at < producer->next; at++) {
        struct ql_result *result = result_of(producer, at);
        Q_ASSERT(result == NULL || result->frame == QL_RESULT_QUEUED);
        if (result != NULL) result->frame = QL_RESULT_NONE;
    }
    producer->next = q_min_u64(producer->next, sequence);
}

/* --- Requests that wait. */

void
ql_producer_hold(
    struct ql_producers *table,
    struct ql_producer *producer,
    struct ql_waiting *waiting,
    uint64_t sequence,
    uint64_t now_ns)
{
    Q_ASSERT(sequence >= producer->next && producer->early_count < QL_EARLY_MAX);
    waiting->producer = producer;
    waiting->sequence = sequence;
    waiting->deadline_ns = now_ns + QL_EARLY_S * (uint64_t)Q_NS_PER_S;
    struct q_list *at = producer->early.next;
    while (at != &producer->early &&
           q_container_of(at, struct ql_waiting, link)->sequence <= sequence)
        at = at->next;
    q_list_insert_before(at, &waiting->link);
    q_list_push_back(&table->early, &waiting->late);
    producer->early_count++;
}

struct ql_waiting *
ql_producer_ready(struct ql_producer *producer)
{
    if (q_list_is_empty(&producer->early)) return NULL;
    struct ql_waiting *waiting = q_container_of(producer->early.next, struct ql_waiting, link);
    if (waiting->sequence > producer->next) return NULL;
    let_go(waiting);
    return waiting;
}

static void
let_go(struct ql_waiting *waiting)
{
    q_list_remove(&waiting->link);
    q_list_remove(&waiting->late);
    waiting->producer->early_count--;
}

uint64_t
ql_producers_deadline_ns(const struct ql_producers *table)
{
    if (q_list_is_empty(&table->early)) return UINT64_MAX;
    return q_container_of(table->early.next, struct ql_waiting, late)->deadline_ns;
}

struct ql_waiting *
ql_producers_late(struct ql_producers *table, uint64_t now_ns)
{
    if (q_list_is_empty(&table->early) || now_ns < ql_producers_deadline_ns(table)) return NULL;
    struct ql_waiting *waiting = q_container_of(table->early.next, struct ql_waiting, late);
    let_go(waiting);
    return waiting;
}

void
ql_producer_follow(struct ql_producer *producer, struct ql_waiting *waiting, uint64_t sequence)
{
    waiting->producer = producer;
    waiting->sequence = sequence;
    q_list_push_back(&producer->repeats, &waiting->link);
}

struct ql_waiting *
ql_producer_follower(struct ql_producer *producer, uint64_t sequence)
{
    q_list_for_each(at, &producer->repeats) {
        struct ql_waiting *waiting = q_container_of(at, struct ql_waiting, link);
        if (waiting->sequence != sequence) continue;
        q_list_remove(&waiting->link);
        return waiting;
    }
    return NULL;
}

/* --- Producers come and go. */

static enum q_err
producers_new(
    struct ql_producers *table,
    const uint8_t id[16],
    uint64_t now_ms,
    struct ql_producer **ret_producer)
{
    Q_TRY(producers_room(table));
    struct ql_producer *producer = calloc(1, sizeof(*producer));
    if (producer == NULL) return Q_FAIL(Q_E_NOMEM, .what = "producer");
    memcpy(producer->id, id, sizeof(producer->id));
    producer->number = table->free[table->free_count - 1];
    producer->seen_ms = now_ms;
    producer->next = 1;
    producer->stated_at = UINT64_MAX;
    q_list_init(&producer->early);
    q_list_init(&producer->repeats);
    q_heap_node_init(&producer->age);
    enum q_err err = q_heap_push(&table->by_age, &producer->age, now_ms);
    if (err == Q_OK) err = q_map_put(&table->by_id, hash_id(id), producer->number);
    if (err != Q_OK) {
        q_heap_remove(&table->by_age, &producer->age);
        free(producer);
        return err;
    }
    table->free_count--;
    table->producers[producer->number] = producer;
    *ret_producer = producer;
    return Q_OK;
}

/* A free number. */
static enum q_err
producers_room(struct ql_producers *table)
{
    if (table->count - table->free_count >= table->max && !producers_forget_one(table, UINT64_MAX))
        return Q_FAIL(Q_BUSY, .what = q_text("%u producers have requests under way", table->max));
    if (table->free_count > 0) return Q_OK;
    if (table->count == table->capacity) {
        uint32_t capacity = table->capacity == 0 ? 16 : table->capacity * 2;
        struct ql_producer **producers = realloc(table->producers, capacity * sizeof(*producers));
        if (producers != NULL) table->producers = producers;
        uint32_t *numbers = realloc(table->free, capacity * sizeof(*numbers));
        if (numbers != NULL) table->free = numbers;
        if (producers == NULL || numbers == NULL)
            return Q_FAIL(Q_E_NOMEM, .what = "table of producers");
        table->capacity = capacity;
    }
    table->producers[table->count] = NULL;
    table->free[table->free_count++] = table->count++;
    return Q_OK;
}

/*
 * One that was last seen before that time, the least recent first. Keys are brought up to date here
 * and not by each request. Who has something under way goes behind the others.
 */
static bool
producers_forget_one(struct ql_producers *table, uint64_t seen_before_ms)
{
    for (unsigned i = 0; i < TRIES_MAX; i++) {
        struct q_heap_node *first = q_heap_first(&table->by_age);
        if (first == NULL || first->key >= seen_before_ms) return false;
        struct ql_producer *producer = q_container_of(first, struct ql_producer, age);
        bool busy = producer_is_busy(producer);
        if (!busy && producer->seen_ms <= first->key) {
            producers_forget(table, producer);
            return true;
        }
        uint64_t key = q_max_u64(producer->seen_ms, first->key + (busy ? 1 : 0));
        q_heap_remove(&table->by_age, first);
        enum q_err err = q_heap_push(&table->by_age, first, key);
        Q_ASSERT(err == Q_OK); /* there is room for what was just removed */
    }
    return false;
}

static bool
is_over(const struct ql_producers *table, const struct ql_producer *producer, uint64_t now_ms)
{
    return now_ms > producer->seen_ms && now_ms - producer->seen_ms > table->keep_ms &&
           !producer_is_busy(producer);
}

static bool
producer_is_busy(const struct ql_producer *producer)
{
    return producer->queued > 0 || producer->early_count > 0 ||
           !q_list_is_empty(&producer->repeats);
}

static void
producers_forget(struct ql_producers *table, struct ql_producer *producer)
{
    Q_ASSERT(!producer_is_busy(producer));
    bool was_there = q_map_remove(&table->by_id, hash_id(producer->id), producer->number);
    Q_ASSERT(was_there);
    q_heap_remove(&table->by_age, &producer->age);
    table->producers[producer->number] = NULL;
    table->free[table->free_count++] = producer->number;
    free(producer->results);
    free(producer);
}

void
ql_producers_expire(struct ql_producers *table, uint64_t now_ms)
{
    if (now_ms <= table->keep_ms) return;
    for (unsigned i = 0; i < TRIES_MAX; i++)
        if (!producers_forget_one(table, now_ms - table->keep_ms)) return;
}

/* --- Results. */

/* `next` goes up to this, and there is room for the result of `low`. None that is among the last that
 * may be known is lost. */
static enum q_err
results_reach(struct ql_producer *producer, uint64_t next, uint64_t low)
{
    next = q_max_u64(next, producer->next);
    while (producer->capacity < RESULTS_MAX) {
        uint64_t first = results_first(producer);
        first = first < producer->next ? q_min_u64(low, first) : low;
        /* Both are 0 when there is nothing to keep yet. */
        if (next - first <= producer->capacity) break;
        Q_TRY(results_grow(producer));
    }
    /* Numbers that nobody used. */
    uint64_t from = next - q_min_u64(next - producer->next, producer->capacity);
    for (uint64_t at = from; at < next; at++)
        result_at(producer, at)->frame = QL_RESULT_NONE;
    producer->next = next;
    return Q_OK;
}

/* The lowest number that is known; `next` when there is none. */
static uint64_t
results_first(const struct ql_producer *producer)
{
    uint64_t first = producer->next - q_min_u64(producer->next, producer->capacity);
    while (first < producer->next && result_of(producer, first) == NULL)
        first++;
    return first;
}

static enum q_err
results_grow(struct ql_producer *producer)
{
    uint32_t capacity = producer->capacity == 0 ? RESULTS_FIRST : producer->capacity * 2;
    struct ql_result *results = malloc(capacity * sizeof(*results));
    if (results == NULL) return Q_FAIL(Q_E_NOMEM, .what = "results of a producer");
    for (uint32_t i = 0; i < capacity; i++)
        results[i] = (struct ql_result){ .frame = QL_RESULT_NONE };
    for (uint64_t at = results_first(producer); at < producer->next; at++)
        results[at & (capacity - 1)] = *result_at(producer, at);
    free(producer->results);
    producer->results = results;
    producer->capacity = capacity;
    return Q_OK;
}

enum q_err
ql_producers_apply(
    struct ql_producers *table,
    const uint8_t id[16],
    uint64_t sequence,
    const struct ql_result *result,
    uint64_t seen_ms)
{
    struct ql_producer *producer = ql_producers_find(table, id);
    /* What is stored was taken, so there is room: keys are brought up to date once at most, and nobody
     * has anything under way. */
    for (uint32_t i = 0; producer == NULL && i <= table->count / TRIES_MAX; i++) {
        bool is_full = table->count - table->free_count >= table->max;
        if (!is_full || producers_forget_one(table, UINT64_MAX)) break;
    }
    if (producer == NULL) Q_TRY(producers_new(table, id, seen_ms, &producer));
    producer->seen_ms = q_max_u64(producer->seen_ms, seen_ms);
    if (sequence < producer->next && producer->next - sequence > RESULTS_MAX) return Q_OK;
    Q_TRY(results_reach(producer, sequence + 1, sequence));
    struct ql_result *known = result_at(producer, sequence);
    if (known->frame == QL_RESULT_NONE) *known = *result;
    return Q_OK;
}

void
ql_producers_cut(struct ql_producers *table, uint64_t end)
{
    for (uint32_t i = 0; i < table->count; i++) {
        struct ql_producer *producer = table->producers[i];
        if (producer == NULL) continue;
        for (uint64_t at = results_first(producer); at < producer->next; at++) {
            struct ql_result *result = result_of(producer, at);
            if (result == NULL || result->frame < end) continue;
            producer->next = at;
            break;
        }
    }
}

/* --- What is said of a producer. */

bool
ql_producer_has_news(const struct ql_producer *producer, uint64_t durable)
{
    uint64_t at = producer->next - q_min_u64(producer->next, producer->capacity);
    for (at = q_max_u64(at, producer->stated_next); at < producer->next; at++) {
        const struct ql_result *result = result_of(producer, at);
        if (result != NULL) return result->frame < durable;
    }
    return false;
}

bool
ql_producer_state(
    const struct ql_producer *producer,
    uint64_t durable,
    struct ql_producer_record *ret_record,
    struct ql_producer_result *ret_results)
{
    struct ql_producer_record record = { .seen_ms = producer->seen_ms };
    memcpy(record.id, producer->id, sizeof(record.id));
    for (uint64_t at = results_first(producer); at < producer->next; at++) {
        const struct ql_result *result = result_of(producer, at);
        if (result == NULL || result->frame >= durable) continue;
        ret_results[record.result_count++] = (struct ql_producer_result){
            .sequence = at,
            .frame = result->frame,
            .from = result->from,
            .to = result->to,
            .digest = result->digest,
            .batch_count = result->batch_count,
        };
    }
    *ret_record = record;
    return record.result_count > 0;
}

void
ql_producers_check(const struct ql_producers *table)
{
    for (uint32_t i = 0; i < table->count; i++) {
        const struct ql_producer *producer = table->producers[i];
        if (producer == NULL) continue;
        Q_ASSERT(producer->number == i);
        uint64_t frame = 0;
        for (uint64_t at = results_first(producer); at < producer->next; at++) {
            const struct ql_result *result = result_of(producer, at);
            if (result == NULL) continue;
            Q_ASSERT(result->frame >= frame);
            frame = result->frame;
        }
        uint64_t sequence = 0;
        uint32_t count = 0;
        q_list_for_each(link, &producer->early) {
            const struct ql_waiting *waiting = q_container_of(link, struct ql_waiting, link);
            Q_ASSERT(waiting->sequence >= sequence);
            sequence = waiting->sequence;
            count++;
        }
        Q_ASSERT(count == producer->early_count && count <= QL_EARLY_MAX);
    }
}

uint64_t
ql_producers_state_hash(const struct ql_producers *table)
{
    /* A sum: numbers in the table are no part of the state. */
    uint64_t sum = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct ql_producer *producer = table->producers[i];
        if (producer == NULL) continue;
        struct ql_producer_record record;
        struct ql_producer_result results[RESULTS_MAX];
        if (!ql_producer_state(producer, QL_RESULT_QUEUED, &record, results)) continue;
        uint64_t hash = hash_id(producer->id);
        for (uint32_t j = 0; j < record.result_count; j++) {
            uint64_t words[4] = { hash, results[j].sequence, results[j].frame, results[j].digest };
            hash = ql_hash(words, sizeof(words));
        }
        sum += hash;
    }
    return sum;
}

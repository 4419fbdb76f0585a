/*
 * Exactly-once publishing, as the table of producers has it: each request is stored once, in its order,
 * and who asks again is told the same. The table is held against a naive one that never forgets.
 */
#include <criterion/criterion.h>

#include "consume/producer.h"
#include "random.h"

static struct ql_producers table;

static struct ql_request_name
name_of(unsigned producer, uint64_t sequence)
{
    struct ql_request_name name = {
        .sequence = sequence,
        .digest = (uint32_t)(producer * 1000 + sequence),
        .batch_count = 1,
    };
    name.producer[0] = (uint8_t)producer;
    name.producer[1] = (uint8_t)(producer >> 8);
    return name;
}

struct judged {
    enum q_err err;
    enum ql_request_verdict verdict;
    struct ql_producer *producer;
    struct ql_result result;
};

static struct judged
judge(const struct ql_request_name *name, uint64_t now_ms)
{
    struct judged judged = { .verdict = 99 };
    judged.err =
        ql_producers_judge(&table, name, now_ms, &judged.verdict, &judged.producer, &judged.result);
    ql_producers_check(&table);
    return judged;
}

static void
place(struct ql_producer *producer, uint64_t sequence, uint64_t frame)
{
    ql_producer_place(producer, sequence, &(struct ql_result){ .frame = frame });
}

/* A request that is due is taken, and placed. */
static void
store(unsigned producer, uint64_t sequence, uint64_t settled, uint64_t frame)
{
    struct ql_request_name name = name_of(producer, sequence);
    name.settled = settled;
    struct judged judged = judge(&name, 1000);
    cr_assert_eq(judged.err, Q_OK);
    cr_assert_eq(judged.verdict, QL_REQUEST_DUE);
    cr_assert_eq(ql_producer_take(judged.producer, &name), Q_OK);
    place(judged.producer, sequence, frame);
}

static enum q_err
verdict_of(unsigned producer, uint64_t sequence, enum ql_request_verdict *ret_verdict)
{
    struct ql_request_name name = name_of(producer, sequence);
    struct judged judged = judge(&name, 1000);
    *ret_verdict = judged.verdict;
    return judged.err;
}

static void
setup(void)
{
    ql_producers_init(&table, 1000, 1000 * 1000);
}

static void
teardown(void)
{
    ql_producers_fini(&table);
}

TestSuite(consume_producer, .init = setup, .fini = teardown);

Test(consume_producer, a_request_is_due_once)
{
    store(1, 1, 0, 4096);
    struct ql_request_name name = name_of(1, 1);
    struct judged judged = judge(&name, 1000);
    cr_assert_eq(judged.err, Q_OK);
    cr_assert_eq(judged.verdict, QL_REQUEST_STORED);
    cr_assert_eq(judged.result.frame, 4096);
    name.digest++;
    cr_assert_eq(judge(&name, 1000).err, Q_CONFLICT, "other bytes under the same number");
    name.digest--;
    name.batch_count++;
    cr_assert_eq(judge(&name, 1000).err, Q_CONFLICT);
}

Test(consume_producer, a_new_producer_begins_with_what_is_not_settled)
{
    enum ql_request_verdict verdict;
    cr_assert_eq(verdict_of(1, 2, &verdict), Q_OK);
    cr_assert_eq(verdict, QL_REQUEST_EARLY, "1 has not come yet");
    store(2, 70, 70, 4096);
    store(2, 71, 70, 8192);
    struct ql_request_name name = name_of(3, 70);
    name.settled = 70;
    name.again = true;
    cr_assert_eq(judge(&name, 1000).err, Q_UNKNOWN_PRODUCER);
    name = name_of(4, 1);
    name.again = true;
    cr_assert_eq(judge(&name, 1000).verdict, QL_REQUEST_DUE, "nothing was forgotten before 1");
}

Test(consume_producer, what_is_settled_is_passed_over)
{
    store(1, 1, 0, 4096);
    store(1, 5, 5, 8192);
    enum ql_request_verdict verdict;
    cr_assert_eq(verdict_of(1, 3, &verdict), Q_OUT_OF_SEQUENCE, "it was given up");
    cr_assert_eq(verdict_of(1, 1, &verdict), Q_OK);
    cr_assert_eq(verdict, QL_REQUEST_STORED);
}

Test(consume_producer, early_ones_wait_for_the_gap)
{
    store(1, 1, 0, 4096);
    struct ql_producer *producer = ql_producers_find(&table, name_of(1, 1).producer);
    struct ql_waiting waiting[QL_EARLY_MAX];
    enum ql_request_verdict verdict;
    /* Backwards, so that they are sorted. */
    for (unsigned i = 0; i < QL_EARLY_MAX; i++) {
        uint64_t sequence = 3 + QL_EARLY_MAX - 1 - i;
        cr_assert_eq(verdict_of(1, sequence, &verdict), Q_OK);
        cr_assert_eq(verdict, QL_REQUEST_EARLY);
        ql_producer_hold(&table, producer, &waiting[i], sequence, i);
    }
    cr_assert_eq(verdict_of(1, 100, &verdict), Q_OUT_OF_SEQUENCE, "more are not held");
    cr_assert_null(ql_producer_ready(producer));
    store(1, 2, 0, 8192);
    for (uint64_t sequence = 3; sequence < 3 + QL_EARLY_MAX - 1; sequence++) {
        struct ql_waiting *ready = ql_producer_ready(producer);
        cr_assert_not_null(ready);
        cr_assert_eq(ready->sequence, sequence);
        store(1, sequence, 0, sequence * 4096);
    }
    cr_assert_eq(ql_producers_deadline_ns(&table), Q_NS_PER_S);
    cr_assert_null(ql_producers_late(&table, Q_NS_PER_S - 1));
    struct ql_waiting *late = ql_producers_late(&table, Q_NS_PER_S);
    cr_assert_eq(late, &waiting[0]);
    cr_assert_eq(ql_producers_deadline_ns(&table), UINT64_MAX);
}

Test(consume_producer, a_repeat_of_what_is_queued_follows_it)
{
    struct ql_request_name name = name_of(1, 1);
    struct judged judged = judge(&name, 1000);
    cr_assert_eq(ql_producer_take(judged.producer, &name), Q_OK);
    judged = judge(&name, 1000);
    cr_assert_eq(judged.verdict, QL_REQUEST_QUEUED);
    struct ql_waiting waiting;
    ql_producer_follow(judged.producer, &waiting, 1);
    cr_assert_null(ql_producer_follower(judged.producer, 2));
    cr_assert_eq(ql_producer_follower(judged.producer, 1), &waiting);
    cr_assert_null(ql_producer_follower(judged.producer, 1));
    ql_producer_untake(judged.producer, 1);
    cr_assert_eq(judge(&name, 1000).verdict, QL_REQUEST_DUE, "as if it had never come");
}

Test(consume_producer, the_last_64_are_known)
{
    for (uint64_t sequence = 1; sequence <= 100; sequence++)
        store(1, sequence, 0, sequence * 4096);
    enum ql_request_verdict verdict;
    cr_assert_eq(verdict_of(1, 37, &verdict), Q_OK);
    cr_assert_eq(verdict, QL_REQUEST_STORED);
    cr_assert_eq(verdict_of(1, 36, &verdict), Q_OUT_OF_SEQUENCE);
}

Test(consume_producer, the_least_recent_is_forgotten)
{
    ql_producers_fini(&table);
    ql_producers_init(&table, 3, 1000);
    for (unsigned i = 1; i <= 3; i++) {
        struct ql_request_name name = name_of(i, 1);
        struct judged judged = judge(&name, i);
        cr_assert_eq(ql_producer_take(judged.producer, &name), Q_OK);
        if (i != 2) place(judged.producer, 1, i * 4096);
    }
    struct ql_request_name name = name_of(1, 1);
    cr_assert_eq(judge(&name, 10).verdict, QL_REQUEST_STORED);
    /* 2 has a request under way, 1 was seen again. */
    store(4, 1, 0, 4096);
    cr_assert_null(ql_producers_find(&table, name_of(3, 1).producer));
    cr_assert_not_null(ql_producers_find(&table, name_of(2, 1).producer));
    ql_producers_expire(&table, 1010);
    cr_assert_not_null(ql_producers_find(&table, name_of(1, 1).producer));
    ql_producers_expire(&table, 1011);
    cr_assert_null(ql_producers_find(&table, name_of(1, 1).producer));
    cr_assert_not_null(ql_producers_find(&table, name_of(2, 1).producer));
    ql_producer_untake(ql_producers_find(&table, name_of(2, 1).producer), 1);
}

/* --- Against a table that never forgets. */

enum {
    PRODUCERS = 5,
    NUMBERS = 400,
    QUEUE_MAX = 6,
};

struct naive {
    uint64_t frame[NUMBERS]; /* 0: not stored */
    uint64_t next;
    uint64_t queue[QUEUE_MAX];
    unsigned queued;
};

static void
apply_all(const struct naive *naives, struct random_source *random, uint64_t durable)
{
    /* What a start has: statements first or last, and batches, perhaps of the same requests. */
    struct ql_producers other;
    ql_producers_init(&other, 1000, 1000 * 1000);
    bool first = random_below(random, 2) == 0;
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < PRODUCERS; i++) {
            uint8_t id[16];
            memcpy(id, name_of(i, 1).producer, sizeof(id));
            const struct ql_producer *producer = ql_producers_find(&table, id);
            struct ql_producer_record record;
            struct ql_producer_result results[QL_PRODUCER_RESULTS_MAX];
            bool statements = (round == 0) == first;
            if (statements && producer != NULL &&
                ql_producer_state(producer, durable, &record, results)) {
                for (uint32_t j = 0; j < record.result_count; j++) {
                    struct ql_result result = { results[j].frame, 0, 0, results[j].digest, 1 };
                    cr_assert_lt(result.frame, durable);
                    cr_assert_eq(
                        ql_producers_apply(&other, id, results[j].sequence, &result, 1), Q_OK);
                }
            }
            for (uint64_t at = 1; !statements && at < NUMBERS; at++) {
                if (naives[i].frame[at] < durable / 2 || naives[i].frame[at] == 0) continue;
                struct ql_result result = { naives[i].frame[at], 0, 0, name_of(i, at).digest, 1 };
                cr_assert_eq(ql_producers_apply(&other, id, at, &result, 1), Q_OK);
            }
        }
        ql_producers_check(&other);
    }
    cr_assert_eq(ql_producers_state_hash(&other), ql_producers_state_hash(&table));
    ql_producers_fini(&other);
}

static void
check_naive(const struct naive *naive, unsigned producer, uint64_t sequence)
{
    struct ql_request_name name = name_of(producer, sequence);
    struct judged judged = judge(&name, 1000);
    bool queued = false;
    for (unsigned i = 0; i < naive->queued; i++)
        queued |= naive->queue[i] == sequence;
    if (sequence == naive->next) {
        cr_assert_eq(judged.verdict, QL_REQUEST_DUE);
    } else if (sequence > naive->next) {
        cr_assert_eq(judged.verdict, QL_REQUEST_EARLY);
    } else if (queued) {
        cr_assert_eq(judged.verdict, QL_REQUEST_QUEUED);
    } else if (naive->frame[sequence] != 0 && naive->next - sequence <= 64) {
        cr_assert_eq(judged.verdict, QL_REQUEST_STORED);
        cr_assert_eq(judged.result.frame, naive->frame[sequence]);
    } else {
        cr_assert_eq(judged.err, Q_OUT_OF_SEQUENCE);
    }
}

Test(consume_producer, agrees_with_a_naive_table)
{
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct random_source random = random_from_seed(seed);
        struct naive naives[PRODUCERS] = { 0 };
        uint64_t frame = 4096;
        for (unsigned i = 0; i < PRODUCERS; i++)
            naives[i].next = 1;
        for (unsigned step = 0; step < 1000; step++) {
            unsigned producer = random_below(&random, PRODUCERS);
            struct naive *naive = &naives[producer];
            unsigned what = random_below(&random, 10);
            if (what < 4 && naive->next + 5 < NUMBERS && naive->queued < QUEUE_MAX) {
                uint64_t skip = random_below(&random, 10) == 0 ? random_below(&random, 5) : 0;
                if (naive->queued > 0) skip = 0;
                struct ql_request_name name = name_of(producer, naive->next + skip);
                name.settled = name.sequence;
                struct judged judged = judge(&name, 1000);
                cr_assert_eq(judged.verdict, QL_REQUEST_DUE, "seed %llu", (unsigned long long)seed);
                cr_assert_eq(ql_producer_take(judged.producer, &name), Q_OK);
                naive->queue[naive->queued++] = name.sequence;
                naive->next = name.sequence + 1;
            } else if (what < 7 && naive->queued > 0) {
                struct ql_producer *known =
                    ql_producers_find(&table, name_of(producer, 1).producer);
                frame += 4096;
                naive->frame[naive->queue[0]] = frame;
                place(known, naive->queue[0], frame);
                naive->queued--;
                memmove(naive->queue, naive->queue + 1, naive->queued * sizeof(naive->queue[0]));
            } else if (what == 7 && naive->queued > 0) {
                struct ql_producer *known =
                    ql_producers_find(&table, name_of(producer, 1).producer);
                naive->next = naive->queue[0];
                for (unsigned i = 0; i < naive->queued; i++)
                    ql_producer_untake(known, naive->queue[i]);
                naive->queued = 0;
            } else if (naive->next < NUMBERS - 10) {
                check_naive(naive, producer, 1 + random_below(&random, (uint32_t)naive->next + 3));
            }
        }
        bool queued = false;
        for (unsigned i = 0; i < PRODUCERS; i++)
            queued |= naives[i].queued > 0;
        if (!queued) apply_all(naives, &random, UINT64_MAX / 4);
        for (unsigned i = 0; i < PRODUCERS; i++)
            for (; naives[i].queued > 0; naives[i].queued--)
                ql_producer_untake(
                    ql_producers_find(&table, name_of(i, 1).producer),
                    naives[i].queue[naives[i].queued - 1]);
        ql_producers_fini(&table);
        ql_producers_init(&table, 1000, 1000 * 1000);
    }
}

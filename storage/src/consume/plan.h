/*
 * consume/plan.h: which messages a pull is given: the rules, without the messages.
 *
 * The store offers messages, pending ones by sequence and then those from the cursor on, with what
 * matters about them; the plan says what becomes of each and collects what a PULL action will say.
 * Nothing is changed before that action is applied.
 *
 *   a pending one is taken when it is due, the puller's filter takes it, and its key is free;
 *   a new one is taken when the puller's filter takes it and its key is free; it is passed over, and
 *   becomes pending, when another filter takes it or its key is busy; else it is skipped.
 *
 * A key is free when nothing of it is in flight and no earlier message of it that holds it back stays
 * behind: a run of one key may go to one consumer in one pull.
 *
 * Thread: the store's. Memory: the store's arrays, as told in the struct.
 */
#ifndef QL_CONSUME_PLAN_H
#define QL_CONSUME_PLAN_H

#include "consume/group.h"

enum ql_offer {
    QL_OFFER_TAKE, /* may be taken, with ql_plan_take() */
    QL_OFFER_PASS, /* stays, or becomes, pending */
    QL_OFFER_SKIP, /* nobody takes it */
    QL_OFFER_STOP  /* there is no room to pass it over: the cursor stays before it */
};

struct ql_plan {
    const struct ql_group *group;
    const struct ql_consumer *consumer;
    uint64_t now_ms;
    uint16_t filter; /* the consumer's bit */

    /* Memory. */
    struct ql_keys *notes; /* keys: `held`: pending ones taken; `waiting`: one was passed over */
    struct ql_pull_run *runs;
    uint32_t runs_max;
    struct ql_pass *passes;
    uint32_t passes_max;

    /* What a PULL action will say. */
    uint32_t run_count;
    uint32_t pass_count;
    uint64_t passed; /* messages */
    uint64_t cursor;
    uint64_t skipped;
    uint64_t expired;
    enum q_err err; /* Q_E_NOMEM */
};

void ql_plan_begin(struct ql_plan *plan);
/* A pending span, in the order of sequences. TAKE or PASS. */
enum ql_offer ql_plan_pending(struct ql_plan *plan, const struct ql_range_item *item);
/* A message at the cursor. What is not taken is noted, and the cursor behind it, but for STOP. */
enum ql_offer ql_plan_new(struct ql_plan *plan, uint16_t filters, uint32_t key);
/* Messages that may be taken are. The caller has seen that there is room for a run. */
void ql_plan_take(struct ql_plan *plan, const struct ql_pull_run *run, bool held_back);
/* Why nothing new is given although something waits. */
enum qlog_held ql_group_held(const struct ql_group *group);

#endif /* QL_CONSUME_PLAN_H */

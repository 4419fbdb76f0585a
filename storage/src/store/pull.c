/*
 * store/pull.c: what a pull is given, and pulls that wait.
 *
 * A pull is given, in this order:
 *
 *   1. what its consumer holds at or above `received`: handed out before, and not arrived
 *   2. what is pending in its group, by sequence
 *   3. new messages from the cursor on, as far as they are visible and the filter takes them
 *
 * 2 and 3 are decided in a plan, applied and logged as one PULL action; the answer leaves when that
 * is written. Bodies are not touched: an answer is made of whole batches, pinned in memory (fetch.c).
 *
 * A pull that finds nothing is parked with its group. News of its subject (a mark that moved over
 * new entries, messages released by another consumer) try the group's parked pulls, first come
 * first served.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "planted.h"
#include "store/store.h"

/* A parked pull, in its private words. */
struct ql_park {
    struct q_list link; /* in ql_group.parked */
    struct q_heap_node deadline;
    struct ql_consumer *consumer;
    bool parked;
    bool unseen;   /* the filter has not looked at everything yet */
    bool fetching; /* something of it is being read from the disk */
};

_Static_assert(sizeof(struct ql_park) <= sizeof(struct qlog_private), "private words are too few");

/* Messages that a filter looks at in one try: bounds a turn. */
enum {
    FILTER_MESSAGES_MAX = 20 * 1000
};
/* Rotten ranges that are dropped in one try. */
enum {
    ROT_RANGES_MAX = 256
};
/* How long a pull that would not wait may still be looked for by its filter, or on the disk. Clients
 * wait for five seconds more than they ask for. */
#define LOOK_WAIT_NS (3 * (uint64_t)Q_NS_PER_S)

struct plan {
    struct qlog_store *store;
    struct qlog_pull *pull;
    struct ql_consumer *consumer;
    struct ql_subject *subject;
    uint64_t visible_end;
    uint64_t pull_sequence; /* of the next new message */
    uint32_t messages;
    uint64_t bytes;
    uint32_t messages_max;
    bool full;
    bool fetching; /* what comes next is being read from the disk */
    uint64_t cursor;
    uint64_t last_piece;    /* position of its envelope */
    struct qlog_range *rot; /* of what was handed out before, and is damaged; first > last: none */
    enum q_err err;
};

enum taken {
    TAKEN,
    TAKEN_NOT, /* no room, not here yet, or not to be read: the plan ends before it */
    TAKEN_ROT  /* it is damaged: the plan goes on behind it */
};

static bool pull_try(struct qlog_store *store, struct qlog_pull *pull);
static bool pull_try_once(
    struct qlog_store *store, struct qlog_pull *pull, struct qlog_range *ret_rot);
static bool pull_repeat(struct plan *plan);
static enum q_err pull_hand_out(struct plan *plan, bool *ret_answered);
static uint64_t plan_range(
    struct plan *plan,
    uint64_t sequence,
    uint64_t end,
    uint32_t attempt,
    const uint64_t *pull_sequence,
    const struct qbatch_filter *filter);
static enum taken plan_piece(struct plan *plan, const struct ql_entry *entry);
static enum taken plan_missing(struct plan *plan, enum q_err err);
static void plan_message(
    struct plan *plan, uint64_t sequence, uint64_t count, uint32_t attempt, uint64_t pull_sequence);
static void plan_undo(struct plan *plan);
static enum q_err plan_apply(struct plan *plan);
static void pull_park(
    struct qlog_store *store, struct qlog_pull *pull, struct ql_consumer *consumer);
static void pull_leave_park(struct qlog_store *store, struct qlog_pull *pull);
static void pull_answer_counts(struct plan *plan);

static struct ql_park *
park_of(struct qlog_pull *pull)
{
    return (struct ql_park *)(void *)&pull->private_;
}

static struct qlog_pull *
pull_of_park(struct ql_park *park)
{
    return q_container_of(park, struct qlog_pull, private_);
}

static void
park_set_fetching(struct ql_park *park, bool fetching)
{
    if (park->parked) {
        park->consumer->group->fetching -= park->fetching;
        park->consumer->group->fetching += fetching;
    }
    park->fetching = fetching;
}

static bool
plan_met_rot(const struct plan *plan)
{
    return plan->rot->first <= plan->rot->last;
}

/* It waits for messages, and not for what is there already to come from the disk. */
static bool
pull_is_patient(struct ql_park *park)
{
    return pull_of_park(park)->wait_ns > 0 && !park->fetching;
}

void
qlog_pull_release(struct qlog_pull *pull)
{
    for (uint32_t i = 0; i < pull->piece_count; i++)
        ql_fetch_release(&pull->pieces[i]);
    pull->piece_count = 0;
}

uint64_t
ql_store_visible_end(const struct qlog_store *store, const struct ql_subject *subject)
{
    bool early = ql_store_mode(store, subject) == QLOG_MODE_ASYNC || QL_PLANTED(seen_before_flush);
    uint64_t mark = early ? store->messages->written : store->messages->durable;
    return ql_index_visible_end(&store->index, subject, mark);
}

void
ql_pull_start(struct qlog_store *store, struct qlog_pull *pull)
{
    struct ql_park *park = park_of(pull);
    memset(park, 0, sizeof(*park));
    q_list_init(&park->link);
    q_heap_node_init(&park->deadline);
    pull->run_count = 0;
    pull->piece_count = 0;
    struct ql_consumer *consumer;
    enum q_err err = ql_store_consumer(store, &pull->who, &consumer);
    if (err == Q_OK && (pull->messages_max == 0 || pull->runs_max == 0 || pull->pieces_max == 0))
        err = Q_FAIL(Q_INVALID, .what = "a pull for no messages");
    if (err == Q_OK && pull->received > consumer->next_pull_sequence)
        err = Q_FAIL(
            Q_INVALID,
            .what = q_text(
                "pull sequence %llu was never handed out", (unsigned long long)pull->received));
    if (err != Q_OK) {
        ql_request_finish(&pull->request, err);
        return;
    }
    ql_consumer_seen(store, consumer);
    if (consumer->parked != NULL) ql_pull_unpark(store, consumer->parked, Q_OK);
    park->consumer = consumer;
    if (pull_try(store, pull)) return;
    if (pull->wait_ns > 0 || park->unseen || park->fetching) {
        pull_park(store, pull, consumer);
        return;
    }
    ql_request_finish(&pull->request, Q_OK);
}

/*
 * True when the pull was answered, or is going to be when its action is written. What was handed out
 * before, and has rotted since, is held and pending no more: nobody can be given it, and it would keep
 * windows full and retention waiting. A restart, which finds it held again, finds this again, too.
 */
static bool
pull_try(struct qlog_store *store, struct qlog_pull *pull)
{
    struct ql_group *group = park_of(pull)->consumer->group;
    struct ql_subject *subject = group->subject;
    for (unsigned i = 0; i < ROT_RANGES_MAX; i++) {
        struct qlog_range rot = { .first = 1, .last = 0 };
        bool answered = pull_try_once(store, pull, &rot);
        if (rot.first > rot.last) return answered;
        uint64_t dropped = ql_group_drop(group, rot.first, rot.last + 1);
        store->passed_over += dropped;
        if (answered || dropped == 0) return answered;
    }
    ql_subject_stir(store, subject);
    store->look_again = true;
    park_of(pull)->unseen = true;
    return false;
}

static bool
pull_try_once(struct qlog_store *store, struct qlog_pull *pull, struct qlog_range *ret_rot)
{
    struct ql_consumer *consumer = park_of(pull)->consumer;
    struct plan plan = {
        .store = store,
        .pull = pull,
        .consumer = consumer,
        .subject = consumer->group->subject,
        .visible_end = ql_store_visible_end(store, consumer->group->subject),
        .pull_sequence = consumer->next_pull_sequence,
        .messages_max = pull->messages_max,
        .cursor = consumer->group->cursor,
        .rot = ret_rot,
    };
    bool answered = false;
    enum q_err err = Q_OK;
    if (pull_repeat(&plan))
        answered = true;
    else if (plan.err == Q_OK && !plan.fetching && !plan_met_rot(&plan))
        err = pull_hand_out(&plan, &answered);
    if (!answered) park_set_fetching(park_of(pull), plan.fetching);
    if (plan.err != Q_OK) err = plan.err;
    if (err == Q_OK) return answered;
    plan_undo(&plan);
    pull_leave_park(store, pull);
    ql_request_finish(&pull->request, err);
    return true;
}

/* What was handed to this consumer and did not arrive. */
static bool
pull_repeat(struct plan *plan)
{
    struct ql_consumer *consumer = plan->consumer;
    struct qlog_store *store = plan->store;
    for (uint32_t i = 0; i < consumer->held_count && !plan->full; i++) {
        const struct ql_held *held = &consumer->held[i];
        uint64_t end = held->pull_sequence + held->count;
        if (end <= plan->pull->received) continue;
        uint64_t first = q_max_u64(held->pull_sequence, plan->pull->received);
        uint64_t sequence = held->sequence + (first - held->pull_sequence);
        (void)plan_range(plan, sequence, held->sequence + held->count, held->attempt, &first, NULL);
    }
    if (plan->err != Q_OK || plan->messages == 0) return false;
    pull_answer_counts(plan);
    pull_leave_park(store, plan->pull);
    if (store->actions->written == store->actions->tail && store->actions->queue.first == NULL) {
        ql_request_finish(&plan->pull->request, Q_OK);
        return true;
    }
    /* The action that handed them out may not be written yet: the answer waits behind it. */
    struct ql_pull_record record = {
        .group_id = consumer->group->id,
        .consumer_id = consumer->id,
        .first_pull_sequence = consumer->next_pull_sequence,
        .cursor = consumer->group->cursor,
    };
    struct ql_action *action;
    plan->err = ql_action_new(store, ql_pull_record_size(0), &action);
    if (plan->err != Q_OK) return false;
    ql_pull_record_encode(&record, NULL, action->record);
    ql_action_append(action, &plan->pull->request);
    return true;
}

static enum q_err
pull_hand_out(struct plan *plan, bool *ret_answered)
{
    struct ql_consumer *consumer = plan->consumer;
    struct ql_group *group = consumer->group;
    struct qlog_store *store = plan->store;
    uint32_t window = store->window_messages_max;
    bool something = group->pending_count > 0 || plan->visible_end > group->cursor;
    if (consumer->held_messages >= window) {
        if (!something || plan->pull->wait_ns > 0) return Q_OK;
        return Q_FAIL(
            Q_WINDOW_FULL,
            .what = q_text(
                "consumer \"%s\" holds %llu un-acknowledged messages, the limit is %u",
                consumer->name, (unsigned long long)consumer->held_messages, window));
    }
    plan->messages_max = (uint32_t)q_min_u64(plan->messages_max, window - consumer->held_messages);

    for (uint32_t i = 0; i < group->pending_count && !plan->full; i++) {
        const struct ql_pending *item = &group->pending[i];
        (void)plan_range(
            plan, item->sequence, item->sequence + item->count, item->attempt, NULL, NULL);
    }
    if (plan_met_rot(plan) && plan->messages == 0) return plan->err;
    if (!plan->full && plan->visible_end > plan->cursor)
        plan->cursor = plan_range(plan, plan->cursor, plan->visible_end, 1, NULL, &group->filter);
    if (plan->err != Q_OK) return plan->err;
    if (plan->messages == 0 && plan->cursor == group->cursor) return Q_OK;
    *ret_answered = plan->messages > 0;
    enum q_err err = plan_apply(plan);
    /* The filter took nothing in one try's worth of messages: go on in the next turn. */
    bool more = plan->cursor < plan->visible_end && !plan->fetching;
    if (err == Q_OK && plan->messages == 0 && more) {
        ql_subject_stir(store, plan->subject);
        store->look_again = true;
        park_of(plan->pull)->unseen = true;
    }
    return err;
}

/*
 * Take messages [sequence, end) into the plan, as far as its limits go. `pull_sequence`: of the
 * first, when they were handed out before. Returns where it stopped: everything below was taken or
 * skipped.
 */
static uint64_t
plan_range(
    struct plan *plan,
    uint64_t sequence,
    uint64_t end,
    uint32_t attempt,
    const uint64_t *pull_sequence,
    const struct qbatch_filter *filter)
{
    uint64_t first = sequence;
    uint64_t looked = 0;
    bool filtered = filter != NULL && filter->tag_count > 0;
    while (sequence < end && !plan->full) {
        struct ql_entry entry;
        enum q_err err = ql_index_entry(&plan->store->index, plan->subject, sequence, &entry);
        if (err < Q_OK) {
            plan->err = err;
            return sequence;
        }
        if (err != Q_OK || entry.first_sequence >= end) return end; /* taken by rot */
        if (entry.first_sequence > sequence) {
            sequence = entry.first_sequence;
            continue;
        }
        uint64_t stop = q_min_u64(end, entry.first_sequence + entry.count);
        if (!filtered) {
            uint64_t count = q_min_u64(stop - sequence, plan->messages_max - plan->messages);
            enum taken taken = count == 0 ? TAKEN_NOT : plan_piece(plan, &entry);
            if (taken == TAKEN_NOT) {
                plan->full = true;
                return sequence;
            }
            if (taken == TAKEN_ROT && filter == NULL) {
                *plan->rot = (struct qlog_range){ sequence, stop - 1 };
                plan->full = true;
                return sequence;
            }
            if (taken == TAKEN_ROT) {
                sequence = stop;
                continue;
            }
            uint64_t number =
                pull_sequence == NULL ? plan->pull_sequence : *pull_sequence + (sequence - first);
            plan_message(plan, sequence, count, attempt, number);
            if (pull_sequence == NULL) plan->pull_sequence += count;
            sequence += count;
            continue;
        }
        if (looked >= FILTER_MESSAGES_MAX) return sequence;
        looked += stop - sequence;
        struct qbatch batch;
        err = ql_fetch_envelope(plan->store, plan->consumer->group, &entry, &batch);
        if (err != Q_OK && plan_missing(plan, err) == TAKEN_NOT) return sequence;
        if (err != Q_OK) {
            sequence = stop;
            continue;
        }
        struct qbatch_mask mask = qbatch_filter_mask(&batch, filter);
        for (; sequence < stop; sequence++) {
            struct qbatch_entry message;
            qbatch_entry_at(&batch, (uint32_t)(sequence - entry.first_sequence), &message);
            if (!qbatch_mask_passes(&mask, message.tags)) continue;
            bool room = plan->messages < plan->messages_max;
            enum taken taken = room ? plan_piece(plan, &entry) : TAKEN_NOT;
            if (taken == TAKEN_ROT) {
                sequence = stop;
                break;
            }
            if (taken == TAKEN_NOT) {
                plan->full = true;
                break;
            }
            plan_message(plan, sequence, 1, attempt, plan->pull_sequence);
            plan->pull_sequence++;
            if (plan->full) {
                sequence++;
                break;
            }
        }
        if (plan->err != Q_OK) return sequence;
    }
    return sequence;
}

/* The batch of `entry` in the answer, pinned. */
static enum taken
plan_piece(struct plan *plan, const struct ql_entry *entry)
{
    struct qlog_pull *pull = plan->pull;
    uint64_t at = entry->frame + entry->envelope_at;
    if (pull->piece_count > 0 && at == plan->last_piece) return TAKEN;
    uint64_t size = (uint64_t)entry->envelope_size + entry->payload_size;
    if (pull->piece_count >= pull->pieces_max) return TAKEN_NOT;
    if (pull->piece_count > 0 && plan->bytes + size > pull->bytes_max) return TAKEN_NOT;
    struct qlog_piece *piece = &pull->pieces[pull->piece_count];
    enum q_err err = ql_fetch_piece(plan->store, plan->consumer->group, entry, piece);
    if (err != Q_OK) return plan_missing(plan, err);
    pull->piece_count++;
    plan->bytes += size;
    plan->last_piece = at;
    return TAKEN;
}

/* A batch can't be had: what is planned so far is given all the same. */
static enum taken
plan_missing(struct plan *plan, enum q_err err)
{
    if (err == Q_E_CORRUPT) return TAKEN_ROT;
    plan->full = true;
    if (plan->messages > 0) return TAKEN_NOT;
    if (err == Q_AGAIN)
        plan->fetching = true;
    else
        plan->err = err;
    return TAKEN_NOT;
}

/* Messages of the last piece; joins the run before when they follow it in both orders. */
static void
plan_message(
    struct plan *plan, uint64_t sequence, uint64_t count, uint32_t attempt, uint64_t pull_sequence)
{
    struct qlog_pull *pull = plan->pull;
    struct qlog_run *last = pull->run_count > 0 ? &pull->runs[pull->run_count - 1] : NULL;
    if (last != NULL && last->sequence + last->count == sequence &&
        last->pull_sequence + last->count == pull_sequence && last->attempt == attempt)
    {
        last->count += (uint32_t)count;
    } else {
        pull->runs[pull->run_count++] = (struct qlog_run){
            .pull_sequence = pull_sequence,
            .sequence = sequence,
            .count = (uint32_t)count,
            .attempt = attempt,
        };
    }
    plan->messages += (uint32_t)count;
    if (plan->messages >= plan->messages_max || pull->run_count >= pull->runs_max)
        plan->full = true;
}

static void
plan_undo(struct plan *plan)
{
    qlog_pull_release(plan->pull);
    plan->pull->run_count = 0;
}

/* Apply and log what the plan hands out, and how far the cursor moved. */
static enum q_err
plan_apply(struct plan *plan)
{
    struct qlog_pull *pull = plan->pull;
    struct ql_group *group = plan->consumer->group;
    struct ql_action *action;
    Q_TRY(ql_action_new(plan->store, ql_pull_record_size(pull->run_count), &action));
    struct ql_pull_record record = {
        .group_id = group->id,
        .consumer_id = plan->consumer->id,
        .first_pull_sequence = plan->consumer->next_pull_sequence,
        .cursor = plan->cursor,
        .run_count = pull->run_count,
    };
    ql_pull_record_encode(&record, pull->runs, action->record);
    enum q_err err =
        ql_pull_record_decode(q_bytes_from(action->record, action->record_size), &record);
    Q_ASSERT(err == Q_OK);
    err = ql_group_apply_pull(group, &record);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    pull_answer_counts(plan);
    if (plan->messages > 0) {
        plan->store->counters.pulls++;
        plan->store->counters.pulled += plan->messages;
        pull_leave_park(plan->store, pull);
        ql_action_append(action, &pull->request);
    } else {
        ql_action_append(action, NULL);
    }
    return Q_OK;
}

static void
pull_answer_counts(struct plan *plan)
{
    const struct ql_group *group = plan->consumer->group;
    plan->pull->unacked = plan->consumer->held_messages;
    plan->pull->waiting = plan->visible_end > group->cursor ? plan->visible_end - group->cursor : 0;
}

/* --- Parked pulls. */

static void
pull_park(struct qlog_store *store, struct qlog_pull *pull, struct ql_consumer *consumer)
{
    struct ql_park *park = park_of(pull);
    struct ql_group *group = consumer->group;
    uint64_t wait_ns = pull->wait_ns == 0 ? LOOK_WAIT_NS : pull->wait_ns;
    enum q_err err = q_heap_push(&store->pull_deadlines, &park->deadline, store->now_ns + wait_ns);
    if (err != Q_OK) {
        ql_request_finish(&pull->request, err);
        return;
    }
    park->parked = true;
    group->fetching += park->fetching;
    consumer->parked = pull;
    /* Those that would not wait for messages, but for the disk, come first. */
    struct q_list *before = pull_is_patient(park) ? &group->parked : group->parked.next;
    while (before != &group->parked &&
           !pull_is_patient(q_container_of(before, struct ql_park, link)))
        before = before->next;
    q_list_insert_before(before, &park->link);
    if (!q_list_is_linked(&group->parked_link))
        q_list_push_back(&group->subject->parked_groups, &group->parked_link);
    store->counters.parked++;
    /* Entries may be there that no mark has passed yet. */
    ql_subject_stir(store, group->subject);
}

static void
pull_leave_park(struct qlog_store *store, struct qlog_pull *pull)
{
    struct ql_park *park = park_of(pull);
    if (!park->parked) return;
    struct ql_group *group = park->consumer->group;
    park->parked = false;
    group->fetching -= park->fetching;
    park->consumer->parked = NULL;
    q_list_remove(&park->link);
    q_heap_remove(&store->pull_deadlines, &park->deadline);
    if (q_list_is_empty(&group->parked)) q_list_remove(&group->parked_link);
    store->counters.parked--;
}

/* What there is though nothing is handed out: it is still on its way from the disk. */
static uint64_t
pull_waiting(const struct qlog_store *store, struct qlog_pull *pull)
{
    const struct ql_park *park = park_of(pull);
    const struct ql_consumer *consumer = park->consumer;
    const struct ql_group *group = consumer->group;
    uint64_t visible_end = ql_store_visible_end(store, group->subject);
    uint64_t waiting = visible_end > group->cursor ? visible_end - group->cursor : 0;
    if (!park->fetching) return waiting;
    waiting += group->pending_messages;
    for (uint32_t i = 0; i < consumer->held_count; i++) {
        const struct ql_held *held = &consumer->held[i];
        uint64_t end = held->pull_sequence + held->count;
        if (end > pull->received) waiting += end - q_max_u64(held->pull_sequence, pull->received);
    }
    return waiting;
}

void
ql_pull_unpark(struct qlog_store *store, struct qlog_pull *pull, enum q_err err)
{
    pull_leave_park(store, pull);
    pull->unacked = park_of(pull)->consumer->held_messages;
    pull->waiting = err == Q_OK ? pull_waiting(store, pull) : 0;
    if (err == Q_CONSUMER_REPLACED || err == Q_NO_SESSION)
        err = Q_FAIL(err, .what = "the session ended while the pull was waiting");
    if (err == Q_STOPPING) err = Q_FAIL(err, .what = "the pull was ended while it was waiting");
    if (err < Q_OK) err = ql_env_check(&store->home->env);
    ql_request_finish(&pull->request, err);
}

void
ql_pull_cancel(struct qlog_store *store, struct qlog_cancel *cancel)
{
    /* The target may have been answered, and its memory be gone: look, don't touch. */
    for (uint32_t i = 0; i < store->pull_deadlines.count; i++) {
        struct ql_park *park =
            q_container_of(store->pull_deadlines.nodes[i], struct ql_park, deadline);
        if (pull_of_park(park) != cancel->target) continue;
        ql_pull_unpark(store, cancel->target, Q_STOPPING);
        break;
    }
    ql_request_finish(&cancel->request, Q_OK);
}

void
ql_pulls_expire(struct qlog_store *store)
{
    for (;;) {
        struct q_heap_node *node = q_heap_first(&store->pull_deadlines);
        if (node == NULL || node->key > store->now_ns) return;
        struct ql_park *park = q_container_of(node, struct ql_park, deadline);
        ql_pull_unpark(store, pull_of_park(park), Q_OK);
    }
}

void
ql_pulls_end(struct qlog_store *store)
{
    enum q_err err = store->home->env.broken;
    struct q_heap_node *node;
    while ((node = q_heap_first(&store->pull_deadlines)) != NULL) {
        struct ql_park *park = q_container_of(node, struct ql_park, deadline);
        ql_pull_unpark(store, pull_of_park(park), err == Q_OK ? Q_STOPPING : err);
    }
    while (q_list_pop_front(&store->stirred) != NULL)
        continue;
}

void
ql_group_try(struct qlog_store *store, struct ql_group *group)
{
    q_list_for_each_safe(link, &group->parked) {
        struct ql_park *park = q_container_of(link, struct ql_park, link);
        bool nothing_left = group->pending_count == 0 &&
                            ql_store_visible_end(store, group->subject) <= group->cursor;
        struct qlog_pull *pull = pull_of_park(park);
        /* What is being read may be what a pull behind this one holds already. */
        if (nothing_left && group->fetching == 0 && pull_is_patient(park)) return;
        if (nothing_left && pull_is_patient(park)) continue;
        if (pull_try(store, pull) || pull->wait_ns > 0 || park->fetching) continue;
        /* It did not want to wait, only for its filter to see everything, or for the disk. */
        if (ql_store_visible_end(store, group->subject) <= group->cursor)
            ql_pull_unpark(store, pull, Q_OK);
    }
}

void
ql_subject_stir(struct qlog_store *store, struct ql_subject *subject)
{
    if (q_list_is_empty(&subject->parked_groups) || q_list_is_linked(&subject->stirred_link))
        return;
    q_list_push_back(&store->stirred, &subject->stirred_link);
}

void
ql_subjects_look(struct qlog_store *store)
{
    const struct ql_log *log = store->messages;
    if (store->looked_written == log->written && store->looked_durable == log->durable &&
        !store->look_again)
        return;
    store->looked_written = log->written;
    store->looked_durable = log->durable;
    store->look_again = false;
    struct q_list stirred;
    q_list_init(&stirred);
    q_list_splice_back(&stirred, &store->stirred);
    struct q_list *node;
    while ((node = q_list_pop_front(&stirred)) != NULL) {
        struct ql_subject *subject = q_container_of(node, struct ql_subject, stirred_link);
        q_list_for_each_safe(link, &subject->parked_groups)
            ql_group_try(store, q_container_of(link, struct ql_group, parked_link));
        /* Entries in flight become visible when a mark moves: look again then. */
        if (ql_store_visible_end(store, subject) < subject->next_sequence)
            ql_subject_stir(store, subject);
    }
}

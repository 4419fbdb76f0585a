#include "store/hand.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "consume/plan.h"
#include "planted.h"

enum {
    LOOK_MAX = 20 * 1000, /* messages that filters look at in one try: bounds a turn */
    RUNS_MAX = 4096,      /* of one action */
    PASSES_MAX = 4096,
    ROT_MAX = 16,    /* batches that one try lets go */
    SKIP_MAX = 1000, /* pending ones of filters without members, when the set is full */
};

struct hand {
    struct ql_plan plan;
    struct qlog_store *store;
    struct qlog_pull *pull;
    struct ql_consumer *consumer;
    struct ql_subject *subject;
    uint64_t visible_end;
    uint64_t pull_sequence; /* of the next new message */
    uint32_t messages;
    uint32_t messages_max;
    uint64_t bytes;      /* of pieces */
    uint64_t bytes_left; /* of the window, by messages */
    bool full;
    uint64_t last_piece; /* position of its envelope */
    uint64_t looked;
    bool fetching; /* what comes next is being read from the disk */
    enum q_err err;
    /* Damaged messages in somebody's hands: the group forgets them. */
    struct qlog_range rot[ROT_MAX];
    uint32_t rot_count;
};

enum taken {
    TAKEN,
    TAKEN_NOT, /* no room, not here yet, or not to be read: the plan ends before it */
    TAKEN_ROT  /* it is damaged: the plan goes on behind it */
};

static enum q_err hand_prepare(struct hand *hand);
static bool hand_has_room(struct hand *hand);
static void hand_pending(struct hand *hand);
static void hand_span(struct hand *hand, const struct ql_range_item *item);
static void hand_new(struct hand *hand);
static void hand_note_rot(struct hand *hand, uint64_t from, uint64_t to);
static void hand_drop_rot(struct hand *hand);
static void hand_skip_rot(struct hand *hand, uint64_t end);
static bool hand_batch_whole(struct hand *hand, const struct ql_entry *entry, uint64_t end);
static void hand_batch(
    struct hand *hand, const struct ql_entry *entry, const struct qbatch *batch, uint64_t end);
static uint64_t hand_entry(
    struct hand *hand, uint64_t sequence, uint64_t end, struct ql_entry *ret_entry);
static enum taken hand_piece(struct hand *hand, const struct ql_entry *entry);
static enum taken hand_missing(struct hand *hand, enum q_err err);
static void hand_run(
    struct hand *hand, uint64_t sequence, uint64_t count, uint32_t attempt, uint64_t pull_sequence);
static void hand_take(struct hand *hand, const struct ql_pull_run *run, bool held_back);
static void hand_undo(struct hand *hand);
static bool hand_is_enough(const struct hand *hand, bool last);
static enum q_err hand_apply(struct hand *hand, struct ql_action **ret_action);
static void hand_skip_unwanted(struct qlog_store *store, struct ql_group *group);

void
qlog_pull_release(struct qlog_pull *pull)
{
    for (uint32_t i = 0; i < pull->piece_count; i++)
        ql_fetch_release(&pull->pieces[i]);
    pull->piece_count = 0;
}

static struct hand
hand_of(struct qlog_store *store, struct qlog_pull *pull, struct ql_consumer *consumer)
{
    pull->run_count = 0;
    pull->piece_count = 0;
    return (struct hand){
        .store = store,
        .pull = pull,
        .consumer = consumer,
        .subject = consumer->group->subject,
        .visible_end = ql_store_visible_end(store, consumer->group->subject),
        .pull_sequence = ql_consumer_next(store, consumer),
        .messages_max = pull->messages_max,
        .bytes_left = UINT64_MAX,
    };
}

static void
hand_answer_counts(struct hand *hand)
{
    const struct ql_group *group = hand->consumer->group;
    hand->pull->unacked = hand->consumer->held_messages;
    hand->pull->strict = group->settings.strict;
    hand->pull->waiting = hand->visible_end > group->cursor ? hand->visible_end - group->cursor : 0;
    if (hand->pull->waiting > 0) hand->pull->held = ql_group_held(group);
}

/* --- What did not arrive. */

enum q_err
ql_hand_repeat(
    struct qlog_store *store,
    struct qlog_pull *pull,
    struct ql_consumer *consumer,
    struct ql_action **ret_action,
    bool *ret_fetching)
{
    struct hand hand = hand_of(store, pull, consumer);
    const struct ql_spans *held = &consumer->held;
    uint32_t at = ql_spans_find(held, pull->received);
    for (; at < held->count && !hand.full && hand.err == Q_OK; at++) {
        const struct ql_range_item *item = ql_span_at(held, at);
        uint64_t before =
            pull->received > item->pull_sequence ? pull->received - item->pull_sequence : 0;
        uint64_t sequence = item->sequence + before;
        uint64_t end = item->sequence + item->count;
        while (sequence < end && !hand.full && hand.err == Q_OK) {
            struct ql_entry entry;
            uint64_t from = hand_entry(&hand, sequence, end, &entry);
            if (from >= end || hand.err != Q_OK || hand.full) break;
            uint64_t stop = q_min_u64(end, ql_entry_end(&entry));
            uint64_t count = q_min_u64(stop - from, hand.messages_max - hand.messages);
            enum taken taken = count == 0 ? TAKEN_NOT : hand_piece(&hand, &entry);
            sequence = stop;
            if (taken == TAKEN_ROT) hand_note_rot(&hand, from, stop);
            if (taken == TAKEN_ROT) continue;
            if (taken == TAKEN_NOT) {
                hand.full = true;
                break;
            }
            hand_run(
                &hand, from, count, ql_uses_attempt(item->uses),
                item->pull_sequence + (from - item->sequence));
            sequence = from + count;
        }
    }
    enum q_err err = hand.err;
    *ret_fetching = hand.fetching;
    hand_drop_rot(&hand);
    if (err == Q_OK && hand.messages == 0) return Q_NOT_FOUND;
    bool logged =
        store->actions->written == store->actions->tail && store->actions->queue.first == NULL;
    if (err == Q_OK && !logged) {
        /* The action that handed them out may not be written yet: the answer waits behind it. */
        struct ql_pull_record record = {
            .group_id = consumer->group->id,
            .consumer_id = consumer->id,
            .first_pull_sequence = consumer->next_pull_sequence,
            .cursor = consumer->group->cursor,
        };
        err = ql_action_new(store, ql_pull_record_size(0, 0), ret_action);
        if (err == Q_OK) ql_pull_record_encode(&record, NULL, NULL, (*ret_action)->record);
    }
    if (err != Q_OK)
        hand_undo(&hand);
    else
        hand_answer_counts(&hand);
    return err;
}

/* --- Pending and new ones. */

enum q_err
ql_hand_out(
    struct qlog_store *store,
    struct qlog_pull *pull,
    struct ql_consumer *consumer,
    bool last,
    struct ql_action **ret_action,
    enum ql_hand_wait *ret_wait)
{
    struct hand hand = hand_of(store, pull, consumer);
    struct ql_group *group = consumer->group;
    bool was_full = group->pending_messages >= group->settings.pending_max;
    if (was_full) hand_skip_unwanted(store, group);
    hand_answer_counts(&hand);
    bool due = group->due_ms <= store->wall_ms;
    if (group->paused || (!due && hand.visible_end <= group->cursor)) return Q_NOT_FOUND;
    if (!hand_has_room(&hand)) {
        if (pull->wait_ns > 0) return Q_NOT_FOUND;
        return Q_FAIL(
            Q_WINDOW_FULL,
            .what = q_text(
                "consumer \"%s\" holds %llu un-acknowledged messages of %llu bytes; the limits are "
                "%u and %llu",
                consumer->name, (unsigned long long)consumer->held_messages,
                (unsigned long long)consumer->held_bytes, store->window_messages_max,
                (unsigned long long)store->window_bytes_max));
    }
    Q_TRY(hand_prepare(&hand));
    if (due) hand_pending(&hand);
    hand_new(&hand);
    hand_drop_rot(&hand);
    enum q_err err = hand.err != Q_OK ? hand.err : hand.plan.err;
    if (err == Q_OK && hand.messages > 0 && !hand_is_enough(&hand, last)) {
        hand_undo(&hand);
        return Q_NOT_FOUND;
    }
    bool moved = hand.messages > 0 || hand.plan.cursor > group->cursor;
    if (hand.fetching) *ret_wait = QL_HAND_FETCH;
    if (err == Q_OK && !moved) return Q_NOT_FOUND;
    struct ql_action *action = NULL;
    if (err == Q_OK) err = hand_apply(&hand, &action);
    if (err != Q_OK) {
        hand_undo(&hand);
        return err;
    }
    if (due) ql_group_refresh_due(group);
    /* There is room for what others pass over: whoever waited for that is tried. */
    if (was_full && group->pending_messages < group->settings.pending_max)
        ql_group_stir(store, group);
    hand_answer_counts(&hand);
    if (hand.messages > 0) {
        *ret_action = action;
        return Q_OK;
    }
    ql_action_append(action, NULL);
    bool more = group->cursor < hand.visible_end && !hand.fetching && !ql_group_is_full(group);
    *ret_wait = more ? QL_HAND_LOOK : hand.fetching ? QL_HAND_FETCH : QL_HAND_NEWS;
    return Q_NOT_FOUND;
}

static bool
hand_has_room(struct hand *hand)
{
    const struct qlog_store *store = hand->store;
    const struct ql_consumer *consumer = hand->consumer;
    if (hand->pull->once) return true;
    if (consumer->held_messages >= store->window_messages_max) return false;
    if (consumer->held_bytes >= store->window_bytes_max) return false;
    uint64_t left = store->window_messages_max - consumer->held_messages;
    hand->messages_max = (uint32_t)q_min_u64(hand->messages_max, left);
    hand->bytes_left = store->window_bytes_max - consumer->held_bytes;
    return true;
}

/* The plan's memory is the store's, and is kept. */
static enum q_err
hand_prepare(struct hand *hand)
{
    struct qlog_store *store = hand->store;
    if (store->plan_runs == NULL) {
        store->plan_runs = malloc(RUNS_MAX * sizeof(struct ql_pull_run));
        store->plan_passes = malloc(PASSES_MAX * sizeof(struct ql_pass));
    }
    if (store->plan_runs == NULL || store->plan_passes == NULL)
        return Q_FAIL(Q_E_NOMEM, .what = "plan of a pull");
    hand->plan = (struct ql_plan){
        .group = hand->consumer->group,
        .consumer = hand->consumer,
        .now_ms = store->wall_ms,
        .notes = &store->plan_notes,
        .runs = store->plan_runs,
        .runs_max = RUNS_MAX,
        .passes = store->plan_passes,
        .passes_max = PASSES_MAX,
    };
    ql_plan_begin(&hand->plan);
    return Q_OK;
}

static void
hand_pending(struct hand *hand)
{
    const struct ql_spans *pending = &hand->consumer->group->pending;
    for (uint32_t i = 0; i < pending->count && !hand->full && hand->err == Q_OK; i++) {
        const struct ql_range_item *item = ql_span_at(pending, i);
        if (ql_plan_pending(&hand->plan, item) == QL_OFFER_TAKE) hand_span(hand, item);
    }
}

/* As much of a pending span as fits. */
static void
hand_span(struct hand *hand, const struct ql_range_item *item)
{
    bool held_back = ql_pending_blocks(hand->plan.group, item);
    uint64_t sequence = item->sequence;
    uint64_t end = item->sequence + item->count;
    while (sequence < end && !hand->full && hand->err == Q_OK) {
        struct ql_entry entry;
        uint64_t from = hand_entry(hand, sequence, end, &entry);
        if (from >= end || hand->err != Q_OK || hand->full) return;
        uint64_t stop = q_min_u64(end, ql_entry_end(&entry));
        uint64_t count = q_min_u64(stop - from, hand->messages_max - hand->messages);
        enum taken taken = count == 0 ? TAKEN_NOT : hand_piece(hand, &entry);
        sequence = stop;
        if (taken == TAKEN_ROT) hand_note_rot(hand, from, stop);
        if (taken == TAKEN_ROT) continue;
        if (taken == TAKEN_NOT) {
            hand->full = true;
            return;
        }
        const struct ql_pull_run run = {
            .sequence = from,
            .count = (uint32_t)count,
            .key = item->key,
            .bytes = (uint32_t)(entry.payload_size * count / entry.count),
            .filters = item->filters,
            .uses = item->uses,
        };
        hand_take(hand, &run, held_back);
        sequence = from + count;
    }
}

static void
hand_new(struct hand *hand)
{
    const struct ql_group *group = hand->plan.group;
    if (ql_room_is_full(group->room)) hand->store->room_wanted = true;
    if (ql_group_is_full(group)) return;
    const struct ql_filters *filters = &group->filters;
    bool all = ql_filters_kept(filters) == hand->plan.filter &&
               filters->slots[hand->consumer->filter]->filter.tag_count == 0;
    while (hand->plan.cursor < hand->visible_end && !hand->full && hand->err == Q_OK) {
        struct ql_entry entry;
        uint64_t from = hand_entry(hand, hand->plan.cursor, hand->visible_end, &entry);
        if (hand->err != Q_OK || hand->full) return;
        /* It is about to be dropped: whoever had it then would have it for nothing. */
        if (hand->store->expiry.state != QL_EXPIRY_IDLE && entry.frame < hand->store->expiry.before)
            return;
        /* Dropped by retention, or taken by damage. */
        hand->plan.expired += from - hand->plan.cursor;
        hand->plan.cursor = from;
        if (from >= hand->visible_end) return;
        struct qbatch batch;
        uint64_t end = q_min_u64(hand->visible_end, ql_entry_end(&entry));
        if (all) {
            if (!hand_batch_whole(hand, &entry, end)) return;
            continue;
        }
        enum q_err err = ql_fetch_envelope(hand->store, hand->consumer->group, &entry, &batch);
        if (err != Q_OK && hand_missing(hand, err) == TAKEN_NOT) return;
        if (err != Q_OK) {
            hand_skip_rot(hand, end);
            continue;
        }
        if (hand->looked >= LOOK_MAX) return;
        hand->looked += end - from;
        hand_batch(hand, &entry, &batch, end);
    }
}

static struct q_bytes
hand_group_name(const struct hand *hand)
{
    return q_bytes_from(hand->plan.group->name, hand->plan.group->name_size);
}

/* Everybody takes everything. False: no room. */
static bool
hand_batch_whole(struct hand *hand, const struct ql_entry *entry, uint64_t end)
{
    uint64_t from = hand->plan.cursor;
    uint64_t count = q_min_u64(end - from, hand->messages_max - hand->messages);
    uint32_t pieces = hand->pull->piece_count;
    enum taken taken = count == 0 ? TAKEN_NOT : hand_piece(hand, entry);
    if (taken == TAKEN_ROT) hand_skip_rot(hand, end);
    if (taken == TAKEN_ROT) return true;
    if (taken == TAKEN_NOT) {
        hand->full = true;
        return false;
    }
    struct qlog_pull *pull = hand->pull;
    struct qlog_piece *piece = &pull->pieces[pull->piece_count - 1];
    struct qbatch batch;
    hand->err = qbatch_open_trusted(q_bytes_from(piece->envelope, piece->envelope_size), &batch);
    if (hand->err != Q_OK) return false;
    if (qbatch_is_ordered(&batch) || qbatch_others(&batch, hand_group_name(hand)) != 0) {
        uint32_t messages = hand->messages;
        hand_batch(hand, entry, &batch, end);
        if (hand->messages == messages && pull->piece_count > pieces) {
            /* All keys of it are busy, or it is for others, and nothing else of it is given. */
            ql_fetch_release(piece);
            pull->piece_count--;
            hand->bytes -= (uint64_t)entry->envelope_size + entry->payload_size;
        }
        return hand->err == Q_OK && hand->plan.err == Q_OK && !hand->full;
    }
    const struct ql_pull_run run = {
        .sequence = from,
        .count = (uint32_t)count,
        .bytes = (uint32_t)(entry->payload_size * count / entry->count),
        .filters = hand->plan.filter,
    };
    hand_take(hand, &run, false);
    return true;
}

/* Message by message, from the cursor on. */
static void
hand_batch(
    struct hand *hand, const struct ql_entry *entry, const struct qbatch *batch, uint64_t end)
{
    const struct ql_filters *filters = &hand->plan.group->filters;
    struct qbatch_mask masks[QLOG_FILTERS_MAX];
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++)
        if (filters->slots[i] != NULL)
            masks[i] = qbatch_filter_mask(batch, &filters->slots[i]->filter);
    uint64_t others = qbatch_others(batch, hand_group_name(hand));
    while (hand->plan.cursor < end && !hand->full && hand->err == Q_OK) {
        uint64_t sequence = hand->plan.cursor;
        struct qbatch_entry message;
        qbatch_entry_at(batch, (uint32_t)(sequence - entry->first_sequence), &message);
        unsigned takers = 0;
        for (uint32_t i = 0; (message.tags & others) == 0 && i < QLOG_FILTERS_MAX; i++)
            if (filters->slots[i] != NULL && qbatch_mask_passes(&masks[i], message.tags))
                takers |= 1u << i;
        enum ql_offer offer = ql_plan_new(&hand->plan, (uint16_t)takers, message.order_key_hash);
        if (hand->plan.err != Q_OK) return;
        if (offer == QL_OFFER_STOP) hand->full = true;
        if (offer != QL_OFFER_TAKE) continue;
        bool room = hand->messages < hand->messages_max;
        enum taken taken = room ? hand_piece(hand, entry) : TAKEN_NOT;
        if (taken == TAKEN_ROT) hand_skip_rot(hand, end);
        if (taken == TAKEN_ROT) return;
        if (taken == TAKEN_NOT) {
            hand->full = true;
            return;
        }
        const struct ql_pull_run run = {
            .sequence = sequence,
            .count = 1,
            .key = message.order_key_hash,
            .bytes = message.length,
            .filters = (uint16_t)takers,
        };
        hand_take(hand, &run, false);
    }
}

/* Dropped when the try is over: arrays are being walked. */
static void
hand_note_rot(struct hand *hand, uint64_t from, uint64_t to)
{
    if (hand->rot_count < ROT_MAX)
        hand->rot[hand->rot_count++] = (struct qlog_range){ from, to - 1 };
}

/*
 * What was handed out before, and has rotted since, is held and pending no more: nobody can be given
 * it, and it would keep windows full and retention waiting.
 */
static void
hand_drop_rot(struct hand *hand)
{
    struct ql_group *group = hand->consumer->group;
    for (uint32_t i = 0; i < hand->rot_count; i++) {
        const struct qlog_range *rot = &hand->rot[i];
        struct ql_resolve_item gone = { rot->first, rot->last, 0 };
        /* Refused: not counted. Who has them after a restart finds them rotten again. */
        if (ql_store_resolve(hand->store, group, QL_VERDICT_EXPIRED, &gone, 1, NULL) != Q_OK)
            (void)ql_group_drop(group, rot->first, rot->last + 1);
    }
    /* A window, a key, room in the set; and there may be more of it. */
    if (hand->rot_count > 0) ql_group_stir(hand->store, group);
}

/* Damage, from the cursor on. */
static void
hand_skip_rot(struct hand *hand, uint64_t end)
{
    hand->plan.expired += end - hand->plan.cursor;
    hand->plan.cursor = end;
}

/*
 * The batch that holds `sequence`, or the first behind it. Returns from where on, at most `end`; that
 * means nothing when `err` or `full` is set.
 */
static uint64_t
hand_entry(struct hand *hand, uint64_t sequence, uint64_t end, struct ql_entry *ret_entry)
{
    enum q_err err = ql_index_entry(&hand->store->index, hand->subject, sequence, ret_entry);
    if (err == Q_E_NOT_NOW && !QL_PLANTED(mended_gone)) {
        /* As a batch that is being read: the end of it is news for all that are stirred. */
        ql_subject_stir(hand->store, hand->subject);
        (void)hand_missing(hand, Q_AGAIN);
        return end;
    }
    if (QL_PLANTED(mended_gone) && err == Q_E_NOT_NOW) err = Q_NOT_FOUND;
    if (err < Q_OK && err != Q_E_CORRUPT) (void)hand_missing(hand, err);
    if (err == Q_E_CORRUPT) hand->err = err;
    if (err != Q_OK || ret_entry->first_sequence >= end) return end; /* taken by rot */
    return q_max_u64(sequence, ret_entry->first_sequence);
}

/* The batch of `entry` in the answer, pinned. */
static enum taken
hand_piece(struct hand *hand, const struct ql_entry *entry)
{
    struct qlog_pull *pull = hand->pull;
    if (pull->run_count >= pull->runs_max || hand->plan.run_count + 1 >= RUNS_MAX) return TAKEN_NOT;
    uint64_t at = entry->frame + entry->envelope_at;
    if (pull->piece_count > 0 && at == hand->last_piece) return TAKEN;
    uint64_t size = (uint64_t)entry->envelope_size + entry->payload_size;
    if (pull->piece_count >= pull->pieces_max) return TAKEN_NOT;
    if (pull->piece_count > 0 && hand->bytes + size > pull->bytes_max) return TAKEN_NOT;
    struct qlog_piece *piece = &pull->pieces[pull->piece_count];
    enum q_err err = ql_fetch_piece(hand->store, hand->consumer->group, entry, piece);
    if (err != Q_OK) return hand_missing(hand, err);
    pull->piece_count++;
    hand->bytes += size;
    hand->last_piece = at;
    return TAKEN;
}

/* A batch can't be had: what is planned so far is given all the same. */
static enum taken
hand_missing(struct hand *hand, enum q_err err)
{
    if (err == Q_E_CORRUPT) return TAKEN_ROT;
    hand->full = true;
    if (hand->messages > 0) return TAKEN_NOT;
    if (err == Q_AGAIN)
        hand->fetching = true;
    else
        hand->err = err;
    return TAKEN_NOT;
}

static void
hand_take(struct hand *hand, const struct ql_pull_run *run, bool held_back)
{
    ql_plan_take(&hand->plan, run, held_back);
    hand_run(hand, run->sequence, run->count, ql_uses_attempt(run->uses), hand->pull_sequence);
    hand->pull_sequence += run->count;
    if (run->bytes >= hand->bytes_left) hand->full = true;
    hand->bytes_left -= q_min_u64(hand->bytes_left, run->bytes);
}

/* Messages of the last piece; they join the run before when they follow it in both orders. */
static void
hand_run(
    struct hand *hand, uint64_t sequence, uint64_t count, uint32_t attempt, uint64_t pull_sequence)
{
    struct qlog_pull *pull = hand->pull;
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
    hand->messages += (uint32_t)count;
    if (hand->messages >= hand->messages_max || pull->run_count >= pull->runs_max)
        hand->full = true;
}

static void
hand_undo(struct hand *hand)
{
    qlog_pull_release(hand->pull);
    hand->pull->run_count = 0;
}

static bool
hand_is_enough(const struct hand *hand, bool last)
{
    const struct qlog_pull *pull = hand->pull;
    /* What one look finds is given: the next one would begin at the same place. */
    if (last || hand->full || hand->looked >= LOOK_MAX) return true;
    if (pull->messages_min == 0 && pull->bytes_min == 0) return true;
    return (pull->messages_min > 0 && hand->messages >= pull->messages_min) ||
           (pull->bytes_min > 0 && hand->bytes >= pull->bytes_min);
}

/* Apply what the plan hands out, passes over, and how far the cursor moved; an action that says so. */
static enum q_err
hand_apply(struct hand *hand, struct ql_action **ret_action)
{
    const struct ql_plan *plan = &hand->plan;
    struct qlog_store *store = hand->store;
    struct ql_consumer *consumer = hand->consumer;
    struct ql_group *group = consumer->group;
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_pull_record_size(plan->run_count, plan->pass_count), &action));
    uint32_t invisible_ms = hand->pull->once ? 0 : hand->pull->invisible_ms;
    struct ql_pull_record record = {
        .group_id = group->id,
        .consumer_id = consumer->id,
        .first_pull_sequence =
            plan->run_count > 0 ? ql_consumer_next(store, consumer) : consumer->next_pull_sequence,
        .cursor = plan->cursor,
        .until_ms = invisible_ms == 0 ? 0 : store->wall_ms + invisible_ms,
        .skipped = plan->skipped,
        .expired = plan->expired,
        .once = hand->pull->once,
        .run_count = plan->run_count,
        .pass_count = plan->pass_count,
    };
    ql_pull_record_encode(&record, plan->runs, plan->passes, action->record);
    enum q_err err =
        ql_pull_record_decode(q_bytes_from(action->record, action->record_size), &record);
    Q_ASSERT(err == Q_OK);
    err = ql_group_apply_pull(group, &record);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    store->counters.expired += plan->expired;
    if (hand->messages > 0) {
        store->counters.pulls++;
        store->counters.pulled += hand->messages;
        consumer->handed_out += hand->messages;
        action->append.flushed = hand->pull->once;
        if (record.until_ms != 0) ql_consumer_time(store, consumer, record.until_ms);
    }
    *ret_action = action;
    return Q_OK;
}

/* The pending set is full: what no member takes makes room, the oldest first. */
static void
hand_skip_unwanted(struct qlog_store *store, struct ql_group *group)
{
    uint16_t live = ql_filters_live(&group->filters);
    struct ql_resolve_item items[SKIP_MAX];
    uint32_t count = 0;
    uint64_t messages = 0;
    for (uint32_t i = 0; i < group->pending.count && messages < SKIP_MAX; i++) {
        const struct ql_range_item *item = ql_span_at(&group->pending, i);
        /* One that is dying has a dead letter coming. */
        if ((item->filters & live) != 0 || item->reason == QL_REASON_DYING) continue;
        items[count++] =
            (struct ql_resolve_item){ item->sequence, item->sequence + item->count - 1, 0 };
        messages += item->count;
    }
    /* Refused: it is tried again with the next pull. */
    if (count > 0) (void)!ql_store_resolve(store, group, QL_VERDICT_SKIPPED, items, count, NULL);
}

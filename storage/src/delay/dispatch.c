/*
 * delay/dispatch.c: what is due goes to broker groups, in requests that are recorded first.
 *
 * A request is composed once. Its DISPATCH record is durable before the sender sees it, and its bytes
 * follow from the record and the delay log alone, so that they are the same whenever it is sent.
 * Nothing new is composed for a broker group whose last request failed, or which still has requests of
 * an earlier start: the backlog stays where it is, in the schedule.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <qbase/assert.h>

#include "delay/delay.h"
#include "planted.h"

enum {
    OFFERS_MAX = 4096, /* of one turn */
    SEND_BATCHES_MAX = 256,
    CANDIDATES_MAX = 16,
    BACKOFF_MS_MIN = 50,
    BACKOFF_MS_MAX = 2000,
    FULL_MS_MAX = 100,   /* so long others wait for a group that has its fill */
    REWIND_MS_MIN = 100, /* between two looks at what was passed over */
    REWIND_MS_MAX = 5000,
    ALONE_MAX = 65536,
    DAMAGE_TRIES = 8, /* what is damaged on its way every time is damaged */
};

enum offer {
    OFFER_TAKEN, /* all of it is marked */
    OFFER_AGAIN, /* a part of it is */
    OFFER_PASSED,
    OFFER_ASIDE, /* all that waits of it was refused */
    OFFER_WAIT,
};

/* What becomes of a request that was not stored. */
enum refusal {
    REFUSAL_PASSING, /* it is sent again as it is */
    REFUSAL_OF_US,   /* the group does not know this store, or not as we do */
    REFUSAL_FOR_GOOD,
};

static void dispatch_rewind(struct qlog_delay *delay);
static enum offer dispatch_offer(
    struct qlog_delay *delay, struct ql_run *run, const struct ql_delay_entry *entry);
static enum offer dispatch_pick(
    struct qlog_delay *delay, struct ql_delay_subject *subject, struct ql_target **ret_target);
static enum q_err target_of(
    struct qlog_delay *delay, const char *name, struct ql_target **ret_target);
static enum q_err target_new(
    struct qlog_delay *delay, const struct ql_target_record *record, struct ql_target **ret_target);
static bool target_takes(const struct qlog_delay *delay, const struct ql_target *target);
static enum q_err open_new(
    struct qlog_delay *delay, struct ql_target *target, struct ql_open **ret_open);
static void open_free(struct ql_open *open);
static bool open_add(
    struct ql_open *open, const struct ql_run *run, const struct ql_delay_entry *entry);
static void open_close(struct ql_open *open);
static void open_measure(struct ql_append *append, uint64_t incarnation);
static void open_fill(
    struct ql_append *append, const struct ql_place *place, uint8_t *records, uint8_t *payloads);
static void open_done(struct ql_append *append, enum q_err err);
static void open_undo(struct ql_open *open);
static bool open_unmark(struct ql_open *open);
static void open_remove(struct ql_open *open);
static void open_hand_over(struct ql_open *open);
static enum refusal refusal_of(const struct qlog_delay_send *send);
static void open_refused(struct ql_open *open);
static bool open_take_back(struct ql_open *open, enum q_err code);
static void open_stored(struct ql_open *open);
static bool open_say(struct ql_open *open, enum q_err code);
static void target_renew(struct qlog_delay *delay, struct ql_target *target);
static void target_wait(struct ql_target *target, uint64_t now_ns);

static const struct ql_append_table open_table = {
    .measure = open_measure,
    .fill = open_fill,
    .done = open_done,
};

static uint64_t
ms_ns(uint64_t ms)
{
    return ms * Q_NS_PER_MS;
}

void
ql_dispatch_due(struct qlog_delay *delay)
{
    delay->again = false;
    if (atomic_load_explicit(&delay->stopping, memory_order_acquire)) return;
    /* A request's record may not come before that of its target. */
    if (delay->refused_notes != NULL) return;
    dispatch_rewind(delay);
    struct ql_run *run;
    const struct ql_delay_entry *entry;
    uint64_t now_ms = delay->eff.now_ms + (QL_PLANTED(delay_early) ? 2 : 0);
    uint32_t offers = 0;
    while (ql_schedule_peek(delay, &run, &entry) && entry->due_ms <= now_ms) {
        if (offers++ == OFFERS_MAX) {
            delay->again = true;
            break;
        }
        enum offer offer = dispatch_offer(delay, run, entry);
        if (offer == OFFER_WAIT) break;
        if (offer == OFFER_AGAIN) continue;
        if (offer == OFFER_PASSED)
            delay->skipped_from = q_min_u64(delay->skipped_from, entry->due_ms);
        ql_schedule_pass(delay, run);
    }
    for (uint32_t i = 0; i < delay->target_count; i++)
        if (delay->targets[i]->forming != NULL) open_close(delay->targets[i]->forming);
}

/* What was passed over is looked at again when it may have a taker, and now and then. */
static void
dispatch_rewind(struct qlog_delay *delay)
{
    /* Pairs with the release in qlog_delay_wake(). */
    if (atomic_exchange_explicit(&delay->woken, false, memory_order_acquire)) delay->stirred = true;
    if (delay->skipped_from == UINT64_MAX) {
        delay->stirred = false;
        return;
    }
    uint64_t since_ns = delay->now_ns - delay->rewound_ns;
    if (since_ns < ms_ns(delay->stirred ? REWIND_MS_MIN : REWIND_MS_MAX)) return;
    ql_schedule_rewind(delay, delay->skipped_from);
    delay->skipped_from = UINT64_MAX;
    delay->rewound_ns = delay->now_ns;
    delay->stirred = false;
    for (uint32_t i = 0; i < delay->target_count; i++)
        delay->targets[i]->has_skipped = false;
}

uint64_t
ql_dispatch_deadline_ns(const struct qlog_delay *delay)
{
    uint64_t deadline = UINT64_MAX;
    const struct q_heap_node *first = q_heap_first(&delay->runs_due);
    if (first != NULL && first->key > delay->eff.now_ms)
        deadline = ql_delay_clock_when_ns(&delay->eff, first->key);
    if (delay->skipped_from != UINT64_MAX)
        deadline = q_min_u64(
            deadline, delay->rewound_ns + ms_ns(delay->stirred ? REWIND_MS_MIN : REWIND_MS_MAX));
    for (uint32_t i = 0; i < delay->target_count; i++) {
        const struct ql_target *target = delay->targets[i];
        if (target->retry_ns != 0) deadline = q_min_u64(deadline, target->retry_ns);
        if (target->full_since_ns != 0 && !target->has_skipped)
            deadline = q_min_u64(deadline, target->full_since_ns + ms_ns(FULL_MS_MAX));
    }
    if (delay->blind_ns != 0) deadline = q_min_u64(deadline, delay->blind_ns);
    return delay->again ? 0 : deadline;
}

/* Neither marked nor aside. */
static bool
is_sendable(const struct qlog_delay *delay, uint64_t sequence)
{
    return !ql_marks_has(&delay->marks, sequence) &&
           (delay->aside_count == 0 || ql_aside_find(delay, sequence) == NULL);
}

static bool
has_sendable(const struct qlog_delay *delay, const struct ql_delay_entry *entry)
{
    if (delay->aside_count == 0) return true;
    for (uint32_t i = 0; i < entry->count; i++)
        if (is_sendable(delay, entry->sequence + i)) return true;
    return false;
}

static enum offer
dispatch_offer(struct qlog_delay *delay, struct ql_run *run, const struct ql_delay_entry *entry)
{
    struct ql_delay_subject *subject = ql_delay_subject(delay, entry->subject_id);
    if (ql_delay_is_moving(delay, entry->sequence, entry->count)) return OFFER_PASSED;
    if (!has_sendable(delay, entry)) return OFFER_ASIDE;
    struct ql_target *target;
    enum offer offer = dispatch_pick(delay, subject, &target);
    if (offer != OFFER_TAKEN) return offer;
    if (target->forming == NULL && open_new(delay, target, &target->forming) != Q_OK)
        return OFFER_PASSED;
    if (open_add(target->forming, run, entry)) return OFFER_TAKEN;
    open_close(target->forming);
    return OFFER_AGAIN;
}

/* A broker group that takes a request now. OFFER_TAKEN: it does. */
static enum offer
dispatch_pick(
    struct qlog_delay *delay, struct ql_delay_subject *subject, struct ql_target **ret_target)
{
    if (subject->away_turn == delay->turn) return OFFER_PASSED;
    const struct qlog_delay_sender *sender = &delay->options.sender;
    struct q_bytes name = q_bytes_from(subject->name, subject->size);
    struct ql_target *candidates[CANDIDATES_MAX];
    unsigned count = 0;
    for (unsigned i = 0; count < CANDIDATES_MAX; i++) {
        const char *group = sender->route(sender->context, name, i);
        if (group == NULL) break;
        if (target_of(delay, group, &candidates[count]) == Q_OK) count++;
    }
    bool waits = false;
    for (unsigned i = 0; i < count; i++) {
        struct ql_target *target = candidates[(delay->turn + i) % count];
        if (target_takes(delay, target)) {
            target->full_since_ns = 0;
            *ret_target = target;
            return OFFER_TAKEN;
        }
        bool full = !target->failing && !target->renewing && target->resend_count == 0;
        if (full && target->full_since_ns == 0) target->full_since_ns = delay->now_ns;
        if (full && delay->now_ns - target->full_since_ns < ms_ns(FULL_MS_MAX)) waits = true;
    }
    if (waits) return OFFER_WAIT;
    for (unsigned i = 0; i < count; i++)
        candidates[i]->has_skipped = true;
    subject->away_turn = delay->turn;
    return OFFER_PASSED;
}

static bool
target_takes(const struct qlog_delay *delay, const struct ql_target *target)
{
    if (target->failing || target->renewing || target->resend_count > 0) return false;
    return target->forming != NULL || target->open_count < delay->options.depth_max;
}

static bool
random_producer(uint8_t id[16])
{
    return getrandom(id, 16, 0) == 16;
}

static enum q_err
target_of(struct qlog_delay *delay, const char *name, struct ql_target **ret_target)
{
    for (uint32_t i = 0; i < delay->target_count; i++)
        if (strcmp(delay->targets[i]->name, name) == 0) {
            *ret_target = delay->targets[i];
            return Q_OK;
        }
    struct ql_target_record record = {
        .target_id = delay->target_count,
        .next_request = 1,
        .name = q_bytes_from_text(name),
    };
    if (!random_producer(record.producer_id))
        return Q_FAIL(Q_E_IO, .sys = errno, .what = "random bytes for a producer id");
    struct ql_note *note;
    Q_TRY(ql_note_new(delay, ql_target_record_size(&record), &note));
    enum q_err err = target_new(delay, &record, ret_target);
    if (err != Q_OK) {
        ql_note_drop(note);
        return err;
    }
    /* The first DISPATCH record comes behind it, so it is durable when that one is. */
    ql_target_record_encode(&record, note->record);
    ql_note_append(note, false);
    return Q_OK;
}

static enum q_err
target_new(
    struct qlog_delay *delay, const struct ql_target_record *record, struct ql_target **ret_target)
{
    if (record->name.size >= sizeof((*ret_target)->name))
        return Q_FAIL(Q_TOO_BIG, .what = "the name of a broker group");
    struct ql_target **targets =
        realloc(delay->targets, (delay->target_count + 1) * sizeof(targets[0]));
    if (targets == NULL) return Q_FAIL(Q_E_NOMEM, .what = "broker groups");
    delay->targets = targets;
    struct ql_target *target = calloc(1, sizeof(*target));
    if (target == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a broker group");
    target->id = record->target_id;
    target->next_request = record->next_request;
    memcpy(target->producer_id, record->producer_id, sizeof(target->producer_id));
    memcpy(target->name, record->name.data, record->name.size);
    q_list_init(&target->opens);
    delay->targets[delay->target_count++] = target;
    *ret_target = target;
    return Q_OK;
}

/* --- Composing a request. */

static enum q_err
open_new(struct qlog_delay *delay, struct ql_target *target, struct ql_open **ret_open)
{
    struct q_list *link = q_list_pop_front(&delay->free_opens);
    struct ql_open *open = link == NULL ? NULL : q_container_of(link, struct ql_open, link);
    if (open == NULL) {
        open = calloc(1, sizeof(*open));
        if (open != NULL) {
            q_list_init(&open->link);
            open->items = calloc(QL_DISPATCH_ITEMS_MAX, sizeof(open->items[0]));
            open->subjects = calloc(QL_DISPATCH_ITEMS_MAX, sizeof(open->subjects[0]));
        }
        if (open == NULL || open->items == NULL || open->subjects == NULL) {
            if (open != NULL) open_free(open);
            return Q_FAIL(Q_E_NOMEM, .what = "a request to a broker group");
        }
    }
    open->append = (struct ql_append){ .table = &open_table, .flushed = true };
    open->delay = delay;
    open->target = target;
    open->state = QL_OPEN_FORMING;
    open->resend = false;
    open->alone = target->alone > 0;
    open->built = false;
    open->read_tries = 0;
    open->item_count = 0;
    open->message_count = 0;
    open->bytes = 0;
    open->due_min_ms = UINT64_MAX;
    open->due_max_ms = 0;
    open->send = (struct qlog_delay_send){ .broker_group = target->name };
    open->request = target->next_request++;
    q_list_push_back(&target->opens, &open->link);
    target->open_count++;
    *ret_open = open;
    return Q_OK;
}

static void
open_free(struct ql_open *open)
{
    free(open->items);
    free(open->subjects);
    free(open->envelopes);
    free(open->payloads);
    free(open);
}

/* All that waits of a batch; false: the request is full, and a part of it may have been added. */
static bool
open_add(struct ql_open *open, const struct ql_run *run, const struct ql_delay_entry *entry)
{
    struct qlog_delay *delay = open->delay;
    const struct qlog_delay_options *options = &delay->options;
    uint32_t messages_max = open->alone ? 1 : options->send_messages_max;
    for (uint32_t first = 0; first < entry->count;) {
        if (!is_sendable(delay, entry->sequence + first)) {
            first++;
            continue;
        }
        uint32_t count = 1;
        while (!open->alone && first + count < entry->count &&
               is_sendable(delay, entry->sequence + first + count))
            count++;
        uint64_t bytes = (uint64_t)entry->envelope_size + entry->payload_size;
        bool full = open->message_count + count > messages_max ||
                    open->bytes + bytes > options->send_bytes_max ||
                    open->item_count == SEND_BATCHES_MAX;
        if (full && open->item_count > 0) return false;
        open->items[open->item_count++] = (struct ql_dispatch_item){
            .due_ms = entry->due_ms,
            .sequence = entry->sequence + first,
            .frame = run->base + entry->frame,
            .count = count,
            .first = first,
            .envelope_at = entry->envelope_at,
            .envelope_size = entry->envelope_size,
            .payload_at = entry->payload_at,
            .payload_size = entry->payload_size,
            .subject_id = entry->subject_id,
        };
        open->message_count += count;
        open->bytes += bytes;
        open->due_min_ms = q_min_u64(open->due_min_ms, entry->due_ms);
        open->due_max_ms = q_max_u64(open->due_max_ms, entry->due_ms);
        ql_delay_mark(delay, entry, entry->sequence + first, count);
        first += count;
    }
    return true;
}

static void
open_close(struct ql_open *open)
{
    struct qlog_delay *delay = open->delay;
    open->target->forming = NULL;
    Q_ASSERT(open->item_count > 0);
    if (open->alone) open->target->alone--;
    open->state = QL_OPEN_RECORDING;
    uint64_t late_ms = delay->eff.now_ms - q_min_u64(delay->eff.now_ms, open->due_min_ms);
    delay->counters.late_max_ms = q_max_u64(delay->counters.late_max_ms, late_ms);
    delay->counters.requests++;
    delay->counters.open++;
    open->append.flushed = !QL_PLANTED(dispatch_unrecorded);
    enum q_err err = ql_log_append(delay->dispatch, &open->append);
    Q_ASSERT(err == Q_OK); /* a record is far below a segment */
}

static void
open_measure(struct ql_append *append, uint64_t incarnation)
{
    (void)incarnation;
    const struct ql_open *open = q_container_of(append, struct ql_open, append);
    append->records_size = ql_dispatch_record_size(open->item_count);
    append->payloads_size = 0;
    append->record_count = 1;
}

static void
open_fill(
    struct ql_append *append, const struct ql_place *place, uint8_t *records, uint8_t *payloads)
{
    (void)place;
    (void)payloads;
    const struct ql_open *open = q_container_of(append, struct ql_open, append);
    struct ql_dispatch_record record = {
        .target_id = open->target->id,
        .item_count = open->item_count,
        .request = open->request,
    };
    ql_dispatch_record_encode(&record, open->items, records);
}

static void
open_done(struct ql_append *append, enum q_err err)
{
    struct ql_open *open = q_container_of(append, struct ql_open, append);
    if (err == Q_OK && open->state == QL_OPEN_RECORDING)
        open_hand_over(open);
    else if (err != Q_OK && err != Q_STOPPING && open->delay->home->env.broken == Q_OK)
        open_undo(open);
}

/* It never was in the log: its messages wait as before, and its number goes to the next one. Those
 * behind it are in the same queue, and meet the same. */
static void
open_undo(struct ql_open *open)
{
    struct qlog_delay *delay = open->delay;
    struct ql_target *target = open->target;
    if (!open_unmark(open)) return;
    target->next_request = q_min_u64(target->next_request, open->request);
    target->failing = true;
    target->retry_ns = delay->now_ns + ms_ns(BACKOFF_MS_MAX);
    delay->counters.requests--;
    open_remove(open);
}

/* Its messages wait again. False: there is no memory for that, and the store is broken. */
static bool
open_unmark(struct ql_open *open)
{
    struct qlog_delay *delay = open->delay;
    for (uint32_t i = 0; i < open->item_count; i++) {
        const struct ql_dispatch_item *item = &open->items[i];
        for (uint32_t j = 0; j < item->count; j++) {
            if (ql_marks_clear(&delay->marks, item->sequence + j) != Q_OK) {
                ql_env_break(
                    &delay->home->env, delay->dispatch->name, delay->home->env.path, 0, ENOMEM);
                return false;
            }
            delay->counters.pending++;
        }
        struct ql_run *run;
        const struct ql_delay_entry *entry;
        uint64_t bytes = (uint64_t)item->envelope_size + item->payload_size;
        if (ql_schedule_find(delay, item->due_ms, item->sequence, &run, &entry))
            delay->live_bytes += bytes / entry->count * item->count;
    }
    ql_space_unmarked(delay);
    delay->skipped_from = q_min_u64(delay->skipped_from, open->due_min_ms);
    return true;
}

static void
open_remove(struct ql_open *open)
{
    struct ql_target *target = open->target;
    if (open->resend) target->resend_count--;
    target->open_count--;
    open->delay->counters.open--;
    open->state = QL_OPEN_FORMING;
    q_list_remove(&open->link);
    q_list_push_back(&open->delay->free_opens, &open->link);
}

/* --- Handing over. */

static void
open_hand_over(struct ql_open *open)
{
    struct qlog_delay *delay = open->delay;
    if (atomic_load_explicit(&delay->stopping, memory_order_acquire)) {
        open->state = QL_OPEN_READY;
        return;
    }
    if (open->target->renewing) {
        (void)open_take_back(open, Q_UNKNOWN_PRODUCER);
        return;
    }
    enum q_err err = open->built ? Q_OK : ql_open_build(open);
    if (err == Q_OK && open->send.batch_count == 0) {
        /* Nothing in it can be read: it was told, and there is nothing to send. */
        open_stored(open);
        return;
    }
    if (err != Q_OK) {
        open->state = QL_OPEN_READY;
        open->target->retry_ns = delay->now_ns + ms_ns(BACKOFF_MS_MAX);
        return;
    }
    open->state = QL_OPEN_SENT;
    open->send.again = open->send.attempt++ > 0 || open->resend;
    if (open->send.again) delay->counters.repeats++;
    const struct q_list *first = open->target->opens.next;
    open->send.settled = q_container_of(first, struct ql_open, link)->request;
    delay->options.sender.send(delay->options.sender.context, &open->send);
}

void
ql_dispatch_sent(struct qlog_delay *delay, struct qlog_delay_send *send)
{
    struct ql_open *open = q_container_of(send, struct ql_open, send);
    struct ql_target *target = open->target;
    Q_ASSERT(open->state == QL_OPEN_SENT);
    if (send->err == Q_OK) {
        if (target->failing || target->has_skipped || open->resend) delay->stirred = true;
        target->failing = false;
        target->backoff_ns = 0;
        target->full_since_ns = 0;
        open_stored(open);
        return;
    }
    open->state = QL_OPEN_READY;
    enum refusal refusal = refusal_of(send);
    if (refusal == REFUSAL_OF_US) target->renewing = true;
    if (target->renewing)
        (void)open_take_back(open, send->err);
    else if (refusal == REFUSAL_FOR_GOOD)
        open_refused(open);
    else
        target_wait(target, delay->now_ns);
    if (QL_PLANTED(dispatch_recomposed) && open->state == QL_OPEN_READY) {
        open->items[0].first = 0;
        open->built = false;
        open->request = target->next_request++;
    }
}

void
ql_dispatch_retry(struct qlog_delay *delay)
{
    for (uint32_t i = 0; i < delay->target_count; i++) {
        struct ql_target *target = delay->targets[i];
        if (target->retry_ns == 0 || delay->now_ns < target->retry_ns) continue;
        target->retry_ns = 0;
        if (target->renewing && target->open_count == 0) target_renew(delay, target);
        /* A group to which nothing is open is tried with the next request. */
        if (target->open_count == 0) target->failing = false;
        q_list_for_each_safe(link, &target->opens) {
            struct ql_open *open = q_container_of(link, struct ql_open, link);
            if (open->state == QL_OPEN_STORED)
                open_stored(open);
            else if (open->state == QL_OPEN_READY)
                open_hand_over(open);
        }
    }
}

static void
target_wait(struct ql_target *target, uint64_t now_ns)
{
    uint64_t backoff_ns = q_max_u64(target->backoff_ns * 2, ms_ns(BACKOFF_MS_MIN));
    target->failing = true;
    target->backoff_ns = q_min_u64(backoff_ns, ms_ns(BACKOFF_MS_MAX));
    target->retry_ns = now_ns + target->backoff_ns;
}

/* --- Refused. */

static enum refusal
refusal_of(const struct qlog_delay_send *send)
{
    switch (send->err) {
    case Q_UNKNOWN_PRODUCER:
    case Q_CONFLICT:
        return REFUSAL_OF_US;
    case Q_OUT_OF_SEQUENCE:
        /* Nothing can be missing before the first: it is older than what the group remembers. */
        return send->settled == send->request_sequence ? REFUSAL_OF_US : REFUSAL_PASSING;
    case Q_E_CORRUPT:
        return send->attempt >= DAMAGE_TRIES ? REFUSAL_FOR_GOOD : REFUSAL_PASSING;
    case Q_UNKNOWN_OPERATION:
        return REFUSAL_PASSING; /* some other server has its address */
    default:
        return send->err > 0 && !q_err_retryable(send->err) ? REFUSAL_FOR_GOOD : REFUSAL_PASSING;
    }
}

/* One of its messages, or each: they are sent one by one, and who is refused alone goes aside. */
static void
open_refused(struct ql_open *open)
{
    struct qlog_delay *delay = open->delay;
    struct ql_target *target = open->target;
    uint32_t count = open->message_count;
    enum q_err code = open->send.err;
    if (count == 1) {
        struct ql_aside aside = { open->items[0].sequence, target->id, code };
        struct ql_note *note;
        if (ql_aside_reserve(delay) != Q_OK ||
            ql_note_new(delay, QL_ASIDE_RECORD_SIZE, &note) != Q_OK) {
            target_wait(target, delay->now_ns);
            return;
        }
        ql_aside_encode(&aside, note);
        ql_note_append(note, false);
        ql_aside_put(delay, &aside);
    }
    if (!open_take_back(open, code)) return;
    target->failing = false;
    target->backoff_ns = 0;
    if (count > 1)
        target->alone = (uint32_t)q_min_u64((uint64_t)target->alone + count, ALONE_MAX);
    else
        delay->counters.refused++;
}

/* It is not going to be sent any more, and its messages wait again. False: a little later. */
static bool
open_take_back(struct ql_open *open, enum q_err code)
{
    struct qlog_delay *delay = open->delay;
    struct ql_target *target = open->target;
    open->state = QL_OPEN_READY;
    if (!open_say(open, code)) return false;
    if (!QL_PLANTED(refused_done) && !open_unmark(open)) return false;
    /* Only who was not known can have it: what is refused was refused every time. */
    if (target->renewing && open->send.again) delay->counters.maybe_twice += open->message_count;
    open_remove(open);
    delay->stirred = true;
    if (target->renewing && target->open_count == 0) target_renew(delay, target);
    return true;
}

/* The group knows no request of this store, or others than those: it gets to know another one. */
static void
target_renew(struct qlog_delay *delay, struct ql_target *target)
{
    struct ql_target_record record = {
        .target_id = target->id,
        .next_request = 1,
        .name = q_bytes_from_text(target->name),
    };
    struct ql_note *note;
    if (!random_producer(record.producer_id) ||
        ql_note_new(delay, ql_target_record_size(&record), &note) != Q_OK)
    {
        target->retry_ns = delay->now_ns + ms_ns(BACKOFF_MS_MAX);
        return;
    }
    ql_target_record_encode(&record, note->record);
    ql_note_append(note, false);
    memcpy(target->producer_id, record.producer_id, sizeof(target->producer_id));
    target->next_request = QL_PLANTED(renewed_numbers) ? target->next_request : 1;
    target->renewing = false;
    target->failing = false;
    target->backoff_ns = 0;
    delay->counters.renewals++;
}

/* --- Stored. */

/* It is stored there, and that is said. Until it can be said the request stays open. */
static void
open_stored(struct ql_open *open)
{
    if (!open_say(open, Q_OK)) {
        open->state = QL_OPEN_STORED;
        return;
    }
    open->delay->counters.delivered += open->message_count;
    open_remove(open);
}

/* What became of it. False: there is no memory for that now. */
static bool
open_say(struct ql_open *open, enum q_err code)
{
    struct qlog_delay *delay = open->delay;
    struct ql_target *target = open->target;
    struct ql_note *note;
    if (ql_note_new(delay, QL_DISPATCHED_RECORD_SIZE, &note) != Q_OK) {
        target->retry_ns = delay->now_ns + ms_ns(BACKOFF_MS_MAX);
        return false;
    }
    struct ql_dispatched_record record = { target->id, (int32_t)code, open->request };
    ql_dispatched_record_encode(&record, note->record);
    ql_note_append(note, false);
    return true;
}

/* --- What is open. */

const struct ql_open *
ql_dispatch_names(const struct qlog_delay *delay, uint64_t sequence)
{
    for (uint32_t i = 0; i < delay->target_count; i++) {
        q_list_for_each(link, &delay->targets[i]->opens) {
            const struct ql_open *open = q_container_of(link, struct ql_open, link);
            for (uint32_t j = 0; j < open->item_count; j++) {
                const struct ql_dispatch_item *item = &open->items[j];
                if (sequence >= item->sequence && sequence - item->sequence < item->count)
                    return open;
            }
        }
    }
    return NULL;
}

bool
ql_dispatch_needs(const struct qlog_delay *delay, uint64_t base, uint64_t end)
{
    for (uint32_t i = 0; i < delay->target_count; i++) {
        q_list_for_each(link, &delay->targets[i]->opens) {
            const struct ql_open *open = q_container_of(link, struct ql_open, link);
            for (uint32_t j = 0; j < open->item_count; j++)
                if (open->items[j].frame >= base && open->items[j].frame < end) return true;
        }
    }
    return false;
}

/* --- A start. */

static struct ql_open *
find_open(const struct qlog_delay *delay, uint32_t target_id, uint64_t request)
{
    if (target_id >= delay->target_count) return NULL;
    q_list_for_each(link, &delay->targets[target_id]->opens) {
        struct ql_open *open = q_container_of(link, struct ql_open, link);
        if (open->request == request) return open;
    }
    return NULL;
}

enum q_err
ql_target_replay(struct qlog_delay *delay, const struct ql_target_record *record)
{
    if (record->target_id > delay->target_count)
        return Q_FAIL(
            Q_E_CORRUPT,
            .what = q_text("target %u is stated before those below", record->target_id));
    if (record->target_id == delay->target_count) {
        struct ql_target *target;
        return target_new(delay, record, &target);
    }
    struct ql_target *target = delay->targets[record->target_id];
    bool known = memcmp(target->producer_id, record->producer_id, 16) == 0;
    if (!q_bytes_equal(q_bytes_from_text(target->name), record->name) ||
        (!known && target->open_count > 0))
        return Q_FAIL(
            Q_E_CORRUPT, .what = q_text("target id %u stands for two groups", record->target_id));
    if (!known) {
        memcpy(target->producer_id, record->producer_id, 16);
        target->next_request = 1;
    }
    target->next_request = q_max_u64(target->next_request, record->next_request);
    return Q_OK;
}

enum q_err
ql_dispatch_replay(struct qlog_delay *delay, const struct ql_dispatch_record *record)
{
    if (record->target_id >= delay->target_count)
        return Q_FAIL(
            Q_E_CORRUPT, .what = q_text("a request to the unknown target %u", record->target_id));
    struct ql_target *target = delay->targets[record->target_id];
    if (find_open(delay, record->target_id, record->request) != NULL) return Q_OK;
    struct ql_open *open;
    Q_TRY(open_new(delay, target, &open));
    target->next_request = q_max_u64(target->next_request - 1, record->request + 1);
    open->request = record->request;
    open->state = QL_OPEN_READY;
    open->resend = true;
    open->item_count = record->item_count;
    target->resend_count++;
    target->retry_ns = 1;
    delay->counters.open++;
    for (uint32_t i = 0; i < record->item_count; i++) {
        struct ql_dispatch_item item = ql_dispatch_item_at(record, i);
        open->items[i] = item;
        open->message_count += item.count;
        open->due_min_ms = q_min_u64(open->due_min_ms, item.due_ms);
        open->due_max_ms = q_max_u64(open->due_max_ms, item.due_ms);
    }
    return Q_OK;
}

/* One that is not known was open when the last round of statements began, and was over in it. */
enum q_err
ql_dispatched_replay(struct qlog_delay *delay, const struct ql_dispatched_record *record)
{
    struct ql_open *open = find_open(delay, record->target_id, record->request);
    if (open == NULL) return Q_OK;
    for (uint32_t i = 0; record->code != Q_OK && i < open->item_count; i++)
        for (uint32_t j = 0; j < open->items[i].count; j++)
            Q_TRY(ql_marks_clear(&delay->marks, open->items[i].sequence + j));
    open_remove(open);
    return Q_OK;
}

enum q_err
ql_dispatch_state(struct qlog_delay *delay, uint64_t *size)
{
    struct ql_note *note;
    for (uint32_t i = 0; i < delay->target_count; i++) {
        const struct ql_target *target = delay->targets[i];
        struct ql_target_record record = {
            .target_id = target->id,
            .next_request = target->next_request,
            .name = q_bytes_from_text(target->name),
        };
        memcpy(record.producer_id, target->producer_id, sizeof(record.producer_id));
        Q_TRY(ql_note_new(delay, ql_target_record_size(&record), &note));
        ql_target_record_encode(&record, note->record);
        *size += note->size;
        ql_note_append(note, false);
        q_list_for_each(link, &target->opens) {
            const struct ql_open *open = q_container_of(link, struct ql_open, link);
            struct ql_dispatch_record dispatch = {
                .target_id = target->id,
                .item_count = open->item_count,
                .request = open->request,
            };
            if (open->state == QL_OPEN_FORMING) continue;
            Q_TRY(ql_note_new(delay, ql_dispatch_record_size(open->item_count), &note));
            ql_dispatch_record_encode(&dispatch, open->items, note->record);
            *size += note->size;
            ql_note_append(note, false);
        }
    }
    return Q_OK;
}

void
ql_dispatch_free(struct qlog_delay *delay)
{
    for (uint32_t i = 0; i < delay->target_count; i++) {
        struct q_list *link;
        while ((link = q_list_pop_front(&delay->targets[i]->opens)) != NULL)
            open_free(q_container_of(link, struct ql_open, link));
        free(delay->targets[i]);
    }
    free(delay->targets);
    struct q_list *link;
    while ((link = q_list_pop_front(&delay->free_opens)) != NULL)
        open_free(q_container_of(link, struct ql_open, link));
    free(delay->scratch);
    free(delay->content);
    free(delay->asides);
}

/*
 * delay/aside.c: messages that a broker group refused for good.
 *
 * Each waits in the delay log like any other, under its handle, and is not offered: it is listed with
 * the error until it is cancelled or given another time, which tries it again. Being aside is a
 * property of a message that waits, so whatever keeps those keeps these.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "delay/delay.h"

/* The first of `sequence` or above. */
static uint32_t
lower_bound(const struct qlog_delay *delay, uint64_t sequence)
{
    uint32_t low = 0;
    uint32_t high = delay->aside_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (delay->asides[middle].sequence < sequence)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* What is marked was cancelled or moved. */
static void
aside_sweep(struct qlog_delay *delay)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < delay->aside_count; i++)
        if (!ql_marks_has(&delay->marks, delay->asides[i].sequence))
            delay->asides[kept++] = delay->asides[i];
    delay->aside_count = kept;
}

enum q_err
ql_aside_reserve(struct qlog_delay *delay)
{
    if (delay->aside_count == QL_ASIDE_MAX) aside_sweep(delay);
    if (delay->aside_count == QL_ASIDE_MAX)
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text("%d messages were refused, and wait aside", QL_ASIDE_MAX),
            .hint = "cancel them, or give them another time");
    if (delay->aside_count < delay->aside_capacity) return Q_OK;
    uint32_t capacity = delay->aside_capacity == 0 ? 16 : delay->aside_capacity * 2;
    struct ql_aside *asides = realloc(delay->asides, capacity * sizeof(asides[0]));
    if (asides == NULL) return Q_FAIL(Q_E_NOMEM, .what = "refused messages");
    delay->asides = asides;
    delay->aside_capacity = capacity;
    return Q_OK;
}

void
ql_aside_put(struct qlog_delay *delay, const struct ql_aside *aside)
{
    uint32_t at = lower_bound(delay, aside->sequence);
    bool known = at < delay->aside_count && delay->asides[at].sequence == aside->sequence;
    if (!known) {
        Q_ASSERT(delay->aside_count < delay->aside_capacity);
        memmove(
            delay->asides + at + 1, delay->asides + at,
            (delay->aside_count - at) * sizeof(delay->asides[0]));
        delay->aside_count++;
    }
    delay->asides[at] = *aside;
}

const struct ql_aside *
ql_aside_find(const struct qlog_delay *delay, uint64_t sequence)
{
    uint32_t at = lower_bound(delay, sequence);
    bool known = at < delay->aside_count && delay->asides[at].sequence == sequence;
    return known ? &delay->asides[at] : NULL;
}

uint32_t
ql_aside_count(const struct qlog_delay *delay, uint64_t sequence, uint64_t count)
{
    uint32_t waiting = 0;
    for (uint32_t at = lower_bound(delay, sequence);
         at < delay->aside_count && delay->asides[at].sequence - sequence < count; at++)
        waiting += !ql_marks_has(&delay->marks, delay->asides[at].sequence);
    return waiting;
}

enum q_err
ql_aside_replay(struct qlog_delay *delay, const struct ql_aside_record *record)
{
    struct ql_aside aside = { record->sequence, record->target_id, (enum q_err)record->code };
    Q_TRY(ql_aside_reserve(delay));
    ql_aside_put(delay, &aside);
    return Q_OK;
}

enum q_err
ql_aside_state(struct qlog_delay *delay, uint64_t *size)
{
    aside_sweep(delay);
    for (uint32_t i = 0; i < delay->aside_count; i++) {
        struct ql_note *note;
        Q_TRY(ql_note_new(delay, QL_ASIDE_RECORD_SIZE, &note));
        ql_aside_encode(&delay->asides[i], note);
        *size += note->size;
        ql_note_append(note, false);
    }
    return Q_OK;
}

void
ql_aside_encode(const struct ql_aside *aside, struct ql_note *note)
{
    struct ql_aside_record record = { aside->sequence, aside->target_id, (int32_t)aside->code };
    ql_aside_record_encode(&record, note->record);
}

#include "full_disk_truth.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "random.h"

enum seen {
    SEEN_NOT,
    SEEN_HANDED,
    SEEN_PERHAPS_ACKED, /* the process ended before the answer */
    SEEN_ACKED
};

enum {
    BODY_PUBLISH_AT = 0,
    BODY_BATCH_AT = 8,
    BODY_INDEX_AT = 12,
    BODY_SIZE_AT = 16,
    BODY_REST_AT = 24
};

static struct message *message_at(struct subject *subject, uint64_t sequence);
static void complain(
    struct truth *truth, uint64_t *verdict, const char *kind, const char *format, va_list args);
static void say_lost(struct truth *truth, const char *format, ...) Q_PRINTF(2, 3);
static void say_phantom(struct truth *truth, const char *format, ...) Q_PRINTF(2, 3);

void
truth_free(struct truth *truth)
{
    for (unsigned i = 0; i < SUBJECTS; i++)
        free(truth->subjects[i].messages);
    free(truth->fates);
}

uint64_t
truth_publish(struct truth *truth)
{
    if (++truth->publishes >= truth->fates_capacity) {
        truth->fates_capacity = q_max_u64(1024, 2 * truth->fates_capacity);
        truth->fates = realloc(truth->fates, truth->fates_capacity);
        Q_ASSERT(truth->fates != NULL);
    }
    truth->fates[truth->publishes] = FATE_UNDER_WAY;
    return truth->publishes;
}

static uint64_t
rest_seed(uint64_t publish, uint32_t batch, uint32_t index)
{
    return publish * 1000003 + batch * UINT64_C(4099) + index;
}

void
truth_body(uint64_t publish, uint32_t batch, uint32_t index, uint8_t *out, uint32_t size)
{
    q_store_le64(out + BODY_PUBLISH_AT, publish);
    q_store_le32(out + BODY_BATCH_AT, batch);
    q_store_le32(out + BODY_INDEX_AT, index);
    q_store_le64(out + BODY_SIZE_AT, size);
    struct random_source random = { .state = rest_seed(publish, batch, index) };
    for (uint32_t at = BODY_REST_AT; at < size; at += sizeof(uint64_t)) {
        uint64_t word = random_u64(&random);
        memcpy(out + at, &word, q_min_u64(sizeof(word), size - at));
    }
}

bool
truth_body_is_whole(struct q_bytes body)
{
    if (body.size < BODY_MIN || q_load_le64(body.data + BODY_SIZE_AT) != body.size) return false;
    struct random_source random = {
        .state = rest_seed(
            q_load_le64(body.data + BODY_PUBLISH_AT), q_load_le32(body.data + BODY_BATCH_AT),
            q_load_le32(body.data + BODY_INDEX_AT)),
    };
    for (size_t at = BODY_REST_AT; at < body.size; at += sizeof(uint64_t)) {
        uint64_t word = random_u64(&random);
        if (memcmp(body.data + at, &word, q_min_u64(sizeof(word), body.size - at)) != 0)
            return false;
    }
    return true;
}

static struct message *
message_at(struct subject *subject, uint64_t sequence)
{
    if (sequence >= subject->capacity) {
        uint64_t capacity = q_max_u64(sequence + 1024, 2 * subject->capacity);
        subject->messages = realloc(subject->messages, capacity * sizeof(struct message));
        Q_ASSERT(subject->messages != NULL);
        memset(
            subject->messages + subject->capacity, 0,
            (capacity - subject->capacity) * sizeof(struct message));
        subject->capacity = capacity;
    }
    subject->count = q_max_u64(subject->count, sequence + 1);
    return &subject->messages[sequence];
}

static bool
message_is(const struct message *a, const struct message *b)
{
    return a->publish == b->publish && a->batch == b->batch && a->index == b->index;
}

void
truth_kept(
    struct truth *truth,
    unsigned subject,
    uint64_t first,
    uint32_t count,
    const struct message *message)
{
    for (uint32_t i = 0; i < count; i++) {
        struct message *at = message_at(&truth->subjects[subject], first + i);
        struct message wanted = *message;
        wanted.index = i;
        if (at->publish == 0) {
            *at = wanted;
        } else if (!message_is(at, &wanted)) {
            say_phantom(
                truth, "sequence %llu of subject %u is given to publish %llu and to %llu",
                (unsigned long long)first + i, subject, (unsigned long long)at->publish,
                (unsigned long long)message->publish);
        }
    }
}

void
truth_restart(struct truth *truth)
{
    for (unsigned i = 0; i < SUBJECTS; i++) {
        struct subject *subject = &truth->subjects[i];
        for (unsigned j = 0; j < GROUPS; j++) {
            for (uint64_t k = subject->readers[j].settled; k < subject->count; k++)
                if (subject->messages[k].seen[j] == SEEN_HANDED)
                    subject->messages[k].seen[j] = SEEN_NOT;
            subject->readers[j].expected = 0;
        }
    }
}

void
truth_delivered(
    struct truth *truth, unsigned subject, unsigned group, uint64_t sequence, struct q_bytes body)
{
    if (!truth_body_is_whole(body)) {
        say_phantom(
            truth, "message %llu of subject %u has wrong bytes", (unsigned long long)sequence,
            subject);
        return;
    }
    struct message told = {
        .publish = q_load_le64(body.data + BODY_PUBLISH_AT),
        .batch = q_load_le32(body.data + BODY_BATCH_AT),
        .index = q_load_le32(body.data + BODY_INDEX_AT),
    };
    bool known = told.publish > 0 && told.publish <= truth->publishes;
    struct message *at = message_at(&truth->subjects[subject], sequence);
    bool may = known && (truth->fates[told.publish] == FATE_UNKNOWN ||
                         truth->fates[told.publish] == FATE_UNDER_WAY);
    /* Nobody was told of it, but now it is there, and stays. */
    if (at->publish == 0 && may) *at = told;
    if (!message_is(at, &told)) {
        say_phantom(
            truth, "message %llu of subject %u is of publish %llu (fate %d), not %llu",
            (unsigned long long)sequence, subject, (unsigned long long)told.publish,
            known ? truth->fates[told.publish] : -1, (unsigned long long)at->publish);
        return;
    }
    struct reader *reader = &truth->subjects[subject].readers[group];
    if (at->seen[group] == SEEN_ACKED || at->seen[group] == SEEN_HANDED)
        say_phantom(
            truth, "message %llu of subject %u comes again to group %u, %s",
            (unsigned long long)sequence, subject, group,
            at->seen[group] == SEEN_ACKED ? "which acknowledged it" : "which has it");
    if (sequence < reader->expected)
        truth_fail(
            truth, "message %llu of subject %u comes to group %u behind %llu",
            (unsigned long long)sequence, subject, group, (unsigned long long)reader->expected - 1);
    reader->expected = sequence + 1;
    at->seen[group] = SEEN_HANDED;
}

void
truth_acked(
    struct truth *truth,
    unsigned subject,
    unsigned group,
    const struct qlog_range *range,
    bool sure)
{
    for (uint64_t i = range->first; i <= range->last; i++)
        message_at(&truth->subjects[subject], i)->seen[group] =
            sure ? SEEN_ACKED : SEEN_PERHAPS_ACKED;
}

void
truth_drained(struct truth *truth, unsigned subject_number, unsigned group)
{
    struct subject *subject = &truth->subjects[subject_number];
    struct reader *reader = &subject->readers[group];
    for (uint64_t i = reader->settled; i < subject->count; i++) {
        struct message *message = &subject->messages[i];
        if (message->publish != 0 && message->seen[group] < SEEN_PERHAPS_ACKED)
            say_lost(
                truth, "message %llu of subject %u (publish %llu) never came to group %u",
                (unsigned long long)i, subject_number, (unsigned long long)message->publish, group);
        message->seen[group] = SEEN_ACKED;
    }
    reader->settled = subject->count;
}

static void
complain(struct truth *truth, uint64_t *verdict, const char *kind, const char *format, va_list args)
{
    (*verdict)++;
    if (truth->complaints++ >= COMPLAINTS_MAX) return;
    (void)fprintf(stderr, "%s: ", kind);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
}

static void
say_lost(struct truth *truth, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    complain(truth, &truth->lost, "lost", format, args);
    va_end(args);
}

static void
say_phantom(struct truth *truth, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    complain(truth, &truth->phantom, "phantom", format, args);
    va_end(args);
}

void
truth_fail(struct truth *truth, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    complain(truth, &truth->failed, "failed", format, args);
    va_end(args);
}

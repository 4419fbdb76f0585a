/*
 * show.c: see show.h.
 */
#include "show.h"

#include <stdio.h>
#include <time.h>

#include <qbase/bytes.h>

#include "json.h"

static bool show_head(const struct qmq_message *message);
static bool show_json(
    struct qmq_client *client, const char *consumer, const struct qmq_message *message);

bool
show_message(
    struct qmq_client *client,
    const char *consumer,
    const struct qmq_message *message,
    enum show_format format)
{
    char id[QMQ_ID_TEXT_SIZE];
    if (format == SHOW_JSON) return show_json(client, consumer, message);
    if (format == SHOW_HUMAN && !show_head(message)) return false;
    if (format == SHOW_ID) (void)printf("%s\t", qmq_id_text(&message->id, id));
    size_t size = message->body.size;
    return fwrite(message->body.data, 1, size, stdout) == size && putc('\n', stdout) != EOF;
}

static bool
show_head(const struct qmq_message *message)
{
    char clock[16];
    char id[QMQ_ID_TEXT_SIZE];
    time_t seconds = (time_t)(message->id.time_ms / 1000);
    struct tm local;
    if (!localtime_r(&seconds, &local)) return false;
    (void)strftime(clock, sizeof(clock), "%H:%M:%S", &local);
    (void)printf(
        "[%llu] %s.%03u  %s", (unsigned long long)message->sequence, clock,
        (unsigned)(message->id.time_ms % 1000), qmq_id_text(&message->id, id));
    if (message->attempt > 1) (void)printf("  attempt %u", message->attempt);
    return putc('\n', stdout) != EOF;
}

static bool
show_json(struct qmq_client *client, const char *consumer, const struct qmq_message *message)
{
    char id[QMQ_ID_TEXT_SIZE];
    struct qmq_bytes tag;
    struct json json = { .comma = false };
    json_open(&json, NULL, '{');
    json_text(&json, "id", q_bytes_from_text(qmq_id_text(&message->id, id)));
    json_text(&json, "broker_group", q_bytes_from_text(qmq_source_name(client, message->source)));
    json_number(&json, "sequence", message->sequence);
    if (consumer) {
        json_text(&json, "consumer", q_bytes_from_text(consumer));
        json_number(&json, "pull_sequence", message->pull_sequence);
        json_number(&json, "attempt", message->attempt);
    }
    json_time(&json, "created", message->id.time_ms);
    json_time(&json, "stored", message->stored_ms);
    json_open(&json, "tags", '[');
    for (size_t index = 0; qmq_message_tag(message, index, &tag); index++)
        json_text(&json, NULL, q_bytes_from(tag.data, tag.size));
    json_close(&json, ']');
    json_bytes(&json, "body", q_bytes_from(message->body.data, message->body.size));
    json_close(&json, '}');
    return putc('\n', stdout) != EOF;
}

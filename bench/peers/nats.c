/*
 * nats.c: NATS JetStream, its text protocol on one socket: asynchronous publishes, pull consumers. One
 * stream holds all subjects.
 *
 * A consumer acknowledges the last message of what came, which covers those before it; with --ack-each
 * every one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qbase/clock.h>

#include "conn.h"
#include "load.h"

#define STREAM "BENCH"

enum {
    WORDS_MAX = 6,
    FINISH_TRIES_MAX = 5000
};

struct side {
    struct conn conn;
    const struct load *load;
    char inbox[64];
    uint64_t group;
    uint64_t wanted; /* messages asked for that have not come */
};

struct message {
    const char *reply; /* "" when there is none */
    const char *data;
    size_t size;
    int status; /* of a message that is only a header; 0: none */
};

/* One message; false when it is not all there. A PING is answered by the way. */
static bool
next_message(struct side *side, struct message *ret_message)
{
    struct conn *conn = &side->conn;
    for (;;) {
        char *line = conn_data(conn);
        char *end = memchr(line, '\n', conn_available(conn));
        if (end == NULL) return false;
        size_t line_size = (size_t)(end + 1 - line);
        if (line[0] == '-') load_die("nats: %.*s", (int)line_size, line);
        if (strncmp(line, "PING", 4) == 0) {
            conn_put(conn, "PONG\r\n", 6);
            conn_flush(conn);
        }
        if (line[0] != 'M' && line[0] != 'H') {
            conn_take(conn, line_size);
            continue;
        }
        /* MSG subject id [reply] size, or HMSG subject id [reply] header-size size */
        const char *last = end;
        while (*last != ' ')
            last--;
        size_t size = strtoul(last + 1, NULL, 10);
        if (conn_available(conn) < line_size + size + 2) return false;
        end[-1] = '\0';
        char *words[WORDS_MAX];
        unsigned count = 0;
        char *rest = line;
        for (char *word; count < WORDS_MAX && (word = strsep(&rest, " ")) != NULL;)
            words[count++] = word;
        bool headed = line[0] == 'H';
        const char *data = line + line_size;
        size_t header_size = headed ? strtoul(words[count - 2], NULL, 10) : 0;
        *ret_message = (struct message){
            .reply = count == 5u + headed ? words[3] : "",
            .data = data + header_size,
            .size = size - header_size,
            .status =
                headed && strncmp(data, "NATS/1.0 ", 9) == 0 ? (int)strtol(data + 9, NULL, 10) : 0,
        };
        conn_take(conn, line_size + size + 2);
        return true;
    }
}

static struct side *
side_new(const struct load *load)
{
    static unsigned made;
    struct side *side = calloc(1, sizeof(*side));
    if (side == NULL) load_die("no memory");
    side->load = load;
    (void)snprintf(side->inbox, sizeof(side->inbox), "_IN.%d.%u", (int)getpid(), made++);
    conn_open(&side->conn, load->port);
    (void)conn_wait_line(&side->conn); /* INFO */
    conn_print(
        &side->conn,
        "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,"
        "\"lang\":\"c\",\"version\":\"1\",\"protocol\":1}\r\nSUB %s 1\r\nPING\r\n",
        side->inbox);
    conn_flush(&side->conn);
    while (strcmp(conn_wait_line(&side->conn), "PONG") != 0)
        continue;
    return side;
}

static void
side_free(struct side *side)
{
    conn_close(&side->conn);
    free(side);
}

static void
publish(struct side *side, const char *subject, const char *reply, const void *data, size_t size)
{
    conn_print(&side->conn, "PUB %s %s %zu\r\n", subject, reply, size);
    conn_put(&side->conn, data, size);
    conn_put(&side->conn, "\r\n", 2);
}

static bool
is_failure(const struct message *message)
{
    return message->status != 0 || memmem(message->data, message->size, "\"error\"", 7) != NULL;
}

static struct message
request(struct side *side, const char *subject, const char *json)
{
    struct message answer;
    publish(side, subject, side->inbox, json, strlen(json));
    conn_flush(&side->conn);
    while (!next_message(side, &answer))
        (void)conn_fill(&side->conn, UINT64_MAX);
    if (is_failure(&answer))
        load_die("nats: %s: %d %.*s", subject, answer.status, (int)answer.size, answer.data);
    return answer;
}

static void
create(const struct load *load)
{
    struct side *side = side_new(load);
    (void)request(
        side, "$JS.API.STREAM.CREATE." STREAM,
        "{\"name\":\"" STREAM "\",\"subjects\":[\"bench.*\"],\"retention\":\"limits\","
        "\"storage\":\"file\",\"num_replicas\":1,\"max_msgs\":-1,\"max_bytes\":-1,"
        "\"max_consumers\":-1,\"max_age\":0,\"discard\":\"old\",\"duplicate_window\":1000000000}");
    for (uint64_t group = 0; group < load->groups; group++) {
        char subject[96];
        char json[512];
        (void)snprintf(
            subject, sizeof(subject), "$JS.API.CONSUMER.DURABLE.CREATE." STREAM ".g%" PRIu64,
            group);
        (void)snprintf(
            json, sizeof(json),
            "{\"stream_name\":\"" STREAM "\",\"config\":{\"durable_name\":\"g%" PRIu64 "\","
            "\"deliver_policy\":\"all\",\"ack_policy\":\"%s\",\"ack_wait\":60000000000,"
            "\"replay_policy\":\"instant\",\"max_ack_pending\":100000,\"max_waiting\":512}}",
            group, load->ack_each ? "explicit" : "all");
        (void)request(side, subject, json);
    }
    side_free(side);
}

static void *
producer(const struct load *load)
{
    return side_new(load);
}

static void
send_one(void *context, uint64_t subject, const void *message, size_t size)
{
    struct side *side = context;
    char name[32];
    publish(side, load_subject(name, subject), side->inbox, message, size);
}

static void
pump(void *context, uint64_t wait_ns)
{
    struct side *side = context;
    struct message message;
    uint64_t count = 0;
    conn_flush(&side->conn);
    do {
        if (!conn_fill(&side->conn, wait_ns)) return;
        while (next_message(side, &message)) {
            if (is_failure(&message))
                load_die("nats: publish: %d %.*s", message.status, (int)message.size, message.data);
            count++;
        }
    } while (count == 0 && wait_ns == UINT64_MAX);
    load_acked(count);
}

static void *
consumer(const struct load *load, uint64_t group)
{
    struct side *side = side_new(load);
    side->group = group;
    return side;
}

static uint64_t
receive(void *context, unsigned wait_ms)
{
    struct side *side = context;
    const struct load *load = side->load;
    if (side->wanted < load->fetch) { /* between one fetch and two are asked for */
        char subject[96];
        char json[64];
        (void)snprintf(
            subject, sizeof(subject), "$JS.API.CONSUMER.MSG.NEXT." STREAM ".g%" PRIu64,
            side->group);
        (void)snprintf(json, sizeof(json), "{\"batch\":%" PRIu64 "}", load->fetch);
        publish(side, subject, side->inbox, json, strlen(json));
        side->wanted += load->fetch;
    }
    conn_flush(&side->conn);
    if (!conn_fill(&side->conn, wait_ms * (uint64_t)Q_NS_PER_MS)) return 0;
    char last[256] = "";
    struct message message;
    uint64_t count = 0;
    while (next_message(side, &message)) {
        if (message.status != 0) load_die("nats: fetch: status %d", message.status);
        load_message(message.data, message.size);
        side->wanted--;
        count++;
        if (load->ack_each)
            conn_print(&side->conn, "PUB %s 0\r\n\r\n", message.reply);
        else
            (void)snprintf(last, sizeof(last), "%s", message.reply);
    }
    if (last[0] != '\0') conn_print(&side->conn, "PUB %s 0\r\n\r\n", last);
    conn_flush(&side->conn);
    return count;
}

static uint64_t
number_behind(const struct message *message, const char *name)
{
    const char *found = memmem(message->data, message->size, name, strlen(name));
    return found == NULL ? 0 : strtoull(found + strlen(name), NULL, 10);
}

static uint64_t
left(const struct load *load, uint64_t group)
{
    struct side *side = side_new(load);
    char subject[96];
    (void)snprintf(subject, sizeof(subject), "$JS.API.CONSUMER.INFO." STREAM ".g%" PRIu64, group);
    struct message info = request(side, subject, "");
    uint64_t count =
        number_behind(&info, "\"num_pending\":") + number_behind(&info, "\"num_ack_pending\":");
    side_free(side);
    return count;
}

/* Acks are not answered: until the server shows none missing. */
static void
finish(void *context)
{
    struct side *side = context;
    conn_flush(&side->conn);
    for (unsigned i = 0; i < FINISH_TRIES_MAX && left(side->load, side->group) > 0; i++)
        (void)usleep(1000);
}

const struct load_peer load_peer = {
    create, producer, send_one, pump, consumer, receive, finish, left,
};

/*
 * rabbitmq-stream.c: RabbitMQ's streams by their own protocol (plugin rabbitmq_stream): frames of many
 * messages, confirms, chunks for credits. A reader has no acknowledgement but its position, which is
 * stored every 10,000 messages, as the queue's own clients do: `left` is not known.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qbase/clock.h>

#include "conn.h"
#include "load.h"

enum command {
    DECLARE_PUBLISHER = 1,
    PUBLISH = 2,
    PUBLISH_CONFIRM = 3,
    SUBSCRIBE = 7,
    DELIVER = 8,
    CREDIT = 9,
    STORE_OFFSET = 10,
    QUERY_OFFSET = 11,
    CREATE = 13,
    PEER_PROPERTIES = 17,
    SASL_HANDSHAKE = 18,
    SASL_AUTHENTICATE = 19,
    TUNE = 20,
    OPEN = 21,
    CLOSE = 22,
    HEARTBEAT = 23
};

enum {
    FRAME_SOFT = 64 * 1024,
    STORE_EVERY = 10000,
    CREDITS = 10,
    CHUNK_HEAD = 48,
    SUBJECTS_MAX = 250, /* publishers that one connection has ids for */
    FINISH_TRIES_MAX = 1000,
    CODE_OK = 1
};

struct frame {
    enum command command;
    const char *data; /* behind command and version */
    size_t size;
};

struct side {
    struct conn conn;
    const struct load *load;
    uint64_t group;
    char *out; /* the frame that is made, without its size */
    size_t out_size;
    uint32_t messages; /* in it */
    uint64_t subject;  /* of them */
    uint64_t next_id;
    uint64_t position;
    uint64_t stored;
};

static void
add(struct side *side, const void *data, size_t size)
{
    memcpy(side->out + side->out_size, data, size);
    side->out_size += size;
}

static void
add_8(struct side *side, uint64_t value)
{
    uint8_t byte = (uint8_t)value;
    add(side, &byte, 1);
}

static void
add_16(struct side *side, uint64_t value)
{
    uint16_t bytes = htobe16((uint16_t)value);
    add(side, &bytes, sizeof(bytes));
}

static void
add_32(struct side *side, uint64_t value)
{
    uint32_t bytes = htobe32((uint32_t)value);
    add(side, &bytes, sizeof(bytes));
}

static void
add_64(struct side *side, uint64_t value)
{
    uint64_t bytes = htobe64(value);
    add(side, &bytes, sizeof(bytes));
}

static void
add_text(struct side *side, const char *text)
{
    add_16(side, strlen(text));
    add(side, text, strlen(text));
}

static void
add_subject(struct side *side, uint64_t subject)
{
    char name[32];
    add_text(side, load_subject(name, subject));
}

static uint16_t
get_16(const char *from)
{
    uint16_t bytes;
    memcpy(&bytes, from, sizeof(bytes));
    return be16toh(bytes);
}

static uint32_t
get_32(const char *from)
{
    uint32_t bytes;
    memcpy(&bytes, from, sizeof(bytes));
    return be32toh(bytes);
}

static uint64_t
get_64(const char *from)
{
    uint64_t bytes;
    memcpy(&bytes, from, sizeof(bytes));
    return be64toh(bytes);
}

static void
begin(struct side *side, enum command command)
{
    side->out_size = 0;
    add_16(side, command);
    add_16(side, 1);
}

static void
begin_request(struct side *side, enum command command)
{
    begin(side, command);
    add_32(side, command); /* the number by which its answer is known */
}

static void
end(struct side *side)
{
    uint32_t size = htobe32((uint32_t)side->out_size);
    conn_put(&side->conn, &size, sizeof(size));
    conn_put(&side->conn, side->out, side->out_size);
    side->out_size = 0;
}

static bool
next_frame(struct side *side, struct frame *ret_frame)
{
    if (conn_available(&side->conn) < 8) return false;
    const char *data = conn_data(&side->conn);
    size_t size = get_32(data);
    if (conn_available(&side->conn) < size + 4) return false;
    *ret_frame = (struct frame){
        .command = get_16(data + 4) & 0x7fff,
        .data = data + 8,
        .size = size - 4,
    };
    conn_take(&side->conn, size + 4);
    if (ret_frame->command == CLOSE)
        load_die("rabbitmq stream: closed: %.*s", (int)ret_frame->size, ret_frame->data);
    return true;
}

static struct frame
wait_frame(struct side *side, enum command command)
{
    struct frame frame;
    conn_flush(&side->conn);
    do {
        while (!next_frame(side, &frame))
            (void)conn_fill(&side->conn, UINT64_MAX);
    } while (frame.command != command);
    return frame;
}

static void
request(struct side *side, enum command command)
{
    end(side);
    struct frame frame = wait_frame(side, command);
    if (get_16(frame.data + 4) != CODE_OK)
        load_die("rabbitmq stream: command %d: code %u", (int)command, get_16(frame.data + 4));
}

static struct side *
side_new(const struct load *load)
{
    struct side *side = calloc(1, sizeof(*side));
    if (side != NULL) side->out = malloc(FRAME_SOFT + load->size + 1024);
    if (side == NULL || side->out == NULL) load_die("no memory");
    side->load = load;
    conn_open(&side->conn, load->port);
    begin_request(side, PEER_PROPERTIES);
    add_32(side, 0);
    request(side, PEER_PROPERTIES);
    begin_request(side, SASL_HANDSHAKE);
    request(side, SASL_HANDSHAKE);
    begin_request(side, SASL_AUTHENTICATE);
    add_text(side, "PLAIN");
    add_32(side, 12);
    add(side, "\0guest\0guest", 12);
    request(side, SASL_AUTHENTICATE);
    struct frame tune = wait_frame(side, TUNE);
    begin(side, TUNE);
    add_32(side, get_32(tune.data));
    add_32(side, 0);
    end(side);
    begin_request(side, OPEN);
    add_text(side, "/");
    request(side, OPEN);
    return side;
}

static void
create(const struct load *load)
{
    struct side *side = side_new(load);
    for (uint64_t i = 0; i < load->subjects; i++) {
        begin_request(side, CREATE);
        add_subject(side, i);
        add_32(side, 0);
        request(side, CREATE);
    }
    conn_close(&side->conn);
    free(side->out);
    free(side);
}

static void *
producer(const struct load *load)
{
    struct side *side = side_new(load);
    if (load->subjects > SUBJECTS_MAX) load_die("rabbitmq stream: too many subjects");
    for (uint64_t i = 0; i < load->subjects; i++) {
        begin_request(side, DECLARE_PUBLISHER);
        add_8(side, i);
        add_text(side, "");
        add_subject(side, i);
        request(side, DECLARE_PUBLISHER);
    }
    return side;
}

static void
end_publish(struct side *side)
{
    if (side->messages == 0) return;
    uint32_t count = htobe32(side->messages);
    memcpy(side->out + 5, &count, sizeof(count));
    side->messages = 0;
    end(side);
}

static void
send_one(void *context, uint64_t subject, const void *message, size_t size)
{
    struct side *side = context;
    if (subject != side->subject || side->out_size > FRAME_SOFT) end_publish(side);
    if (side->messages == 0) {
        begin(side, PUBLISH);
        add_8(side, subject);
        add_32(side, 0);
        side->subject = subject;
    }
    add_64(side, side->next_id++);
    add_32(side, size);
    add(side, message, size);
    side->messages++;
}

static void
pump(void *context, uint64_t wait_ns)
{
    struct side *side = context;
    struct frame frame;
    uint64_t count = 0;
    end_publish(side);
    conn_flush(&side->conn);
    do {
        if (!conn_fill(&side->conn, wait_ns)) return;
        while (next_frame(side, &frame)) {
            if (frame.command == PUBLISH_CONFIRM)
                count += get_32(frame.data + 1);
            else if (frame.command != HEARTBEAT)
                load_die("rabbitmq stream: publish: command %d came", (int)frame.command);
        }
    } while (count == 0 && wait_ns == UINT64_MAX);
    load_acked(count);
}

static void
add_credits(struct side *side, uint64_t subscription, uint64_t count)
{
    begin(side, CREDIT);
    add_8(side, subscription);
    add_16(side, count);
    end(side);
}

static void *
consumer(const struct load *load, uint64_t group)
{
    struct side *side = side_new(load);
    side->group = group;
    for (uint64_t i = 0; i < load->subjects; i++) {
        begin_request(side, SUBSCRIBE);
        add_8(side, i);
        add_subject(side, i);
        add_16(side, 1); /* from the first message */
        add_16(side, 0); /* no credits yet: nothing comes before the answer */
        request(side, SUBSCRIBE);
    }
    for (uint64_t i = 0; i < load->subjects; i++)
        add_credits(side, i, CREDITS);
    conn_flush(&side->conn);
    return side;
}

static void
add_reader(struct side *side)
{
    char name[32];
    (void)snprintf(name, sizeof(name), "g%" PRIu64, side->group);
    add_text(side, name);
    add_subject(side, 0);
}

static void
store(struct side *side)
{
    begin(side, STORE_OFFSET);
    add_reader(side);
    add_64(side, side->position);
    end(side);
    side->stored = side->position;
}

static uint64_t
take_chunk(struct side *side, const struct frame *frame)
{
    const char *at = frame->data + 1;
    const char *limit = frame->data + frame->size;
    bool has_messages = at[1] == 0;
    uint64_t entries = has_messages ? get_16(at + 2) : 0;
    if (has_messages) side->position = get_64(at + 24) + get_32(at + 4) - 1;
    at += CHUNK_HEAD;
    for (uint64_t i = 0; i < entries; i++) {
        uint32_t size = get_32(at);
        if (size >> 31 != 0 || size > (size_t)(limit - at) - 4)
            load_die("rabbitmq stream: an entry of unknown kind");
        load_message(at + 4, size);
        at += 4 + size;
    }
    add_credits(side, (uint8_t)frame->data[0], 1);
    return entries;
}

static uint64_t
receive(void *context, unsigned wait_ms)
{
    struct side *side = context;
    struct frame frame;
    if (!conn_fill(&side->conn, wait_ms * (uint64_t)Q_NS_PER_MS)) return 0;
    uint64_t count = 0;
    while (next_frame(side, &frame))
        if (frame.command == DELIVER) count += take_chunk(side, &frame);
    if (side->position - side->stored >= STORE_EVERY) store(side);
    conn_flush(&side->conn);
    return count;
}

/* Until the server knows the position. */
static void
finish(void *context)
{
    struct side *side = context;
    store(side);
    for (unsigned i = 0; i < FINISH_TRIES_MAX; i++) {
        begin_request(side, QUERY_OFFSET);
        add_reader(side);
        end(side);
        struct frame frame = wait_frame(side, QUERY_OFFSET);
        if (get_16(frame.data + 4) == CODE_OK && get_64(frame.data + 6) == side->position) return;
        (void)usleep(1000);
    }
    load_die("rabbitmq stream: the position is not stored");
}

static uint64_t
left(const struct load *load, uint64_t group)
{
    (void)load;
    (void)group;
    return UINT64_MAX;
}

const struct load_peer load_peer = {
    create, producer, send_one, pump, consumer, receive, finish, left,
};

/*
 * pub.c: `qmq pub`: one message, or one per line.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qbase/bytes.h>
#include <qbase/clock.h>

#include "command.h"
#include "interrupt.h"
#include "when.h"

enum {
    READ_SIZE = 64 * 1024,
    BUFFER_FIRST = 2 * READ_SIZE,
    BODY_MAX = 4 * 1024 * 1024, /* what the broker takes, properties included */
    FLUSH_MS = 60 * 1000,       /* more than a message's deadline */
    FLUSH_INTERRUPTED_MS = 5 * 1000,
    BLOCK_MS_DEFAULT = 1000,
    TAGS_MAX = 10,
    TAG_MAX = 255, /* bytes of one */
    EXIT_SIGNAL_BASE = 128,
};

struct pub {
    const char *subject;
    const char *from;
    struct qmq_bytes tags[TAGS_MAX];
    size_t tag_count;   /* of every message */
    uint64_t tag_field; /* 0: none */
    const char *at;     /* due then */
    uint64_t delay_ns;  /* due so long after it is sent */
    uint64_t due_ms;    /* of --at */
    struct qmq_bytes key;
    struct qmq_bytes order_key;
    uint64_t order_key_field; /* 0: none */
    bool one_way;
    uint64_t block_ns; /* one way: how long a line waits for room in memory */
    struct qmq_producer *producer;

    uint64_t lines;
    /* Of callbacks, which come one after another; read after the flush. */
    uint64_t stored;
    uint64_t maybe_duplicate;
    struct q_fault first_failure;
    struct q_fault first_drop; /* one way: what qmq_send() said */
    atomic_bool has_failed;
};

/* Bytes of a file that are not used up, at [begin, end). */
struct input {
    int fd;
    uint8_t *data;
    size_t begin;
    size_t end;
    size_t capacity;
    bool is_at_end;
};

static int pub_one(struct pub *pub, const char *body);
static int pub_lines(struct pub *pub);
static int read_body(struct input *input);
static int send_one(struct pub *pub, struct q_bytes body);
static int send_lines(struct pub *pub, struct input *input);
static int send_line(struct pub *pub, struct q_bytes line);
static void on_sent(void *context, const struct qmq_sent *sent);
static int finish(struct pub *pub, int exit_code, uint64_t begin_ns);
static int finish_one_way(struct pub *pub, int exit_code, uint64_t begin_ns);
static enum q_err fill(struct input *input);
static bool next_line(struct input *input, struct q_bytes *ret_line);
static struct qmq_bytes field(struct q_bytes line, uint64_t number);
static struct qmq_outgoing message_of(const struct pub *pub, struct q_bytes body);

int
pub_run(const struct command *command, int argc, char **argv)
{
    struct pub pub = { .from = NULL };
    struct q_opt_list tags = { .count = 0 };
    const char *meta = meta_default();
    const char *key = "";
    const char *order_key = "";
    const char *duplicates = "maybe";
    const struct q_opt options[] = {
        { "tag", 't', Q_OPT_LIST, &tags, "TAG", "give each message this tag; up to 10 times", 0,
          0 },
        { "delay", 0, Q_OPT_DURATION, &pub.delay_ns, "D",
          "deliver so long after it is published: 5s, 30m, 7d", 0, 0 },
        { "at", 0, Q_OPT_TEXT, &pub.at, "TIME", "deliver then: 2026-01-11T04:15:02Z", 0, 0 },
        { "from", 0, Q_OPT_TEXT, &pub.from, "FILE", "one message per line; - is stdin", 0, 0 },
        { "tag-field", 0, Q_OPT_NUMBER, &pub.tag_field, "N",
          "with --from: the N-th word of a line is a tag, too", 1, UINT32_MAX },
        { "key", 0, Q_OPT_TEXT, &key, "KEY", "a word to find the message by", 0, 0 },
        { "order-key", 0, Q_OPT_TEXT, &order_key, "KEY",
          "messages with the same one are handed out one after another", 0, 0 },
        { "order-key-field", 0, Q_OPT_NUMBER, &pub.order_key_field, "N",
          "with --from: the N-th word of a line is its order key", 1, UINT32_MAX },
        { "one-way", 0, Q_OPT_FLAG, &pub.one_way, NULL,
          "for what may be lost: don't wait for answers, drop what can't be sent, count it", 0, 0 },
        { "block", 0, Q_OPT_DURATION, &pub.block_ns, "D",
          "with --one-way: wait for room so long, once, before lines are dropped (1s)", 0, 0 },
        { "duplicates", 0, Q_OPT_TEXT, &duplicates, "MODE",
          "when a broker group keeps its answer: maybe: send to another one; never: wait (maybe)",
          0, 0 },
        META_OPTION(meta),
    };
    struct q_opts_result result;
    int exit_code;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 1, 2, argc, argv, &result,
            &exit_code))
        return exit_code;
    const char *body = result.arg_count > 1 ? result.args[1] : NULL;
    if (body && pub.from) return usage_error(command, "either BODY or --from, not both");
    if (!body && !pub.from && isatty(STDIN_FILENO))
        return usage_error(command, "no body: give BODY, --from FILE, or something on stdin");
    if (pub.tag_field && !pub.from) return usage_error(command, "--tag-field needs --from");
    if (pub.order_key_field && (!pub.from || *order_key))
        return usage_error(command, "--order-key-field needs --from, and no --order-key");
    pub.key = (struct qmq_bytes){ key, strlen(key) };
    pub.order_key = (struct qmq_bytes){ order_key, strlen(order_key) };
    unsigned tag_count = tags.count + (pub.tag_field ? 1 : 0);
    if (tag_count > TAGS_MAX)
        return usage_error(command, "%u tags, a message has %d at most", tag_count, TAGS_MAX);
    struct qmq_producer_options producer_options = { .duplicates = QMQ_DUPLICATES_MAYBE };
    if (strcmp(duplicates, "never") == 0)
        producer_options.duplicates = QMQ_DUPLICATES_NEVER;
    else if (strcmp(duplicates, "maybe") != 0)
        return usage_error(command, "--duplicates is maybe or never, not \"%s\"", duplicates);
    if (pub.one_way && (pub.at || pub.delay_ns > 0))
        return usage_error(command, "a one-way message can't be delayed: drop --one-way");
    if ((*order_key || pub.order_key_field) && (pub.at || pub.delay_ns > 0))
        return usage_error(command, "a delayed message can't have an order key");
    if (pub.block_ns > 0 && !pub.one_way) return usage_error(command, "--block needs --one-way");
    uint64_t block_ms = pub.block_ns > 0 ? pub.block_ns / Q_NS_PER_MS : BLOCK_MS_DEFAULT;
    producer_options.one_way = pub.one_way;
    if (pub.one_way) producer_options.block_ms = (uint32_t)q_min_u64(block_ms, UINT32_MAX);
    if (pub.at && pub.delay_ns > 0) return usage_error(command, "either --delay or --at, not both");
    if (pub.at && when_parse(pub.at, q_clock_wall_ms(q_clock_system()), &pub.due_ms) != Q_OK)
        return usage_error(command, "--at: %s", q_fault_last()->what);
    pub.subject = result.args[0];
    for (; pub.tag_count < tags.count; pub.tag_count++)
        pub.tags[pub.tag_count] =
            (struct qmq_bytes){ tags.values[pub.tag_count], strlen(tags.values[pub.tag_count]) };

    interrupt_block();
    struct qmq_client *client = connect_to(meta, &exit_code);
    if (!client) return exit_code;
    if (qmq_producer_new(client, &producer_options, &pub.producer) != QMQ_OK) {
        exit_code = report_error("publish");
    } else {
        interrupt_here();
        exit_code = pub.from ? pub_lines(&pub) : pub_one(&pub, body);
    }
    qmq_producer_free(pub.producer);
    qmq_client_free(client);
    return exit_code;
}

static int
pub_one(struct pub *pub, const char *body)
{
    if (body) return send_one(pub, q_bytes_from_text(body));

    struct input input = { .fd = STDIN_FILENO };
    int exit_code = read_body(&input);
    if (exit_code == EXIT_OK) exit_code = send_one(pub, q_bytes_from(input.data, input.end));
    free(input.data);
    return exit_code;
}

static int
read_body(struct input *input)
{
    while (!input->is_at_end) {
        if (input->end > BODY_MAX) {
            (void)Q_FAIL(Q_TOO_BIG, .what = q_text("more than %d bytes on stdin", BODY_MAX));
            return report_error("read the body");
        }
        if (fill(input) != Q_OK) return report_error("read the body");
        if (interrupt_signal()) return EXIT_SIGNAL_BASE + interrupt_signal();
    }
    return EXIT_OK;
}

static int
send_one(struct pub *pub, struct q_bytes body)
{
    uint64_t begin_ns = q_clock_monotonic_ns(q_clock_system());
    struct qmq_outgoing message = message_of(pub, body);
    struct qmq_sent sent;
    if (pub->one_way) {
        if (qmq_send(pub->producer, pub->subject, &message, on_sent, pub) != QMQ_OK)
            return report_error("publish to \"%s\"", pub->subject);
        return finish_one_way(pub, EXIT_OK, begin_ns);
    }
    if (qmq_send_wait(pub->producer, pub->subject, &message, &sent) != QMQ_OK)
        return report_error("publish to \"%s\"", pub->subject);

    uint64_t took_ns = q_clock_monotonic_ns(q_clock_system()) - begin_ns;
    char id[QMQ_ID_TEXT_SIZE];
    if (message.due_ms > 0)
        (void)fprintf(
            stderr, "kept  %s  id %s  handle %llu-%llu@%s  %.1f ms%s\n", pub->subject,
            qmq_id_text(&sent.id, id), (unsigned long long)message.due_ms,
            (unsigned long long)sent.sequence, sent.broker_group, (double)took_ns / Q_NS_PER_MS,
            sent.maybe_duplicate ? "  (maybe twice: an answer was lost)" : "");
    else
        (void)fprintf(
            stderr, "sent  %s  id %s  seq %llu  broker %s  %.1f ms%s\n", pub->subject,
            qmq_id_text(&sent.id, id), (unsigned long long)sent.sequence, sent.broker_group,
            (double)took_ns / Q_NS_PER_MS,
            sent.maybe_duplicate ? "  (maybe twice: an answer was lost)" : "");
    return EXIT_OK;
}

static int
pub_lines(struct pub *pub)
{
    bool is_stdin = strcmp(pub->from, "-") == 0;
    struct input input = {
        .fd = is_stdin ? STDIN_FILENO : open(pub->from, O_RDONLY | O_CLOEXEC),
    };
    if (input.fd < 0) {
        enum q_err err = errno == ENOENT ? Q_NOT_FOUND : q_err_from_errno(errno);
        (void)Q_FAIL(err, .path = pub->from, .sys = errno);
        return report_error("read \"%s\"", pub->from);
    }

    uint64_t begin_ns = q_clock_monotonic_ns(q_clock_system());
    int exit_code = send_lines(pub, &input);
    if (!is_stdin) (void)close(input.fd);
    free(input.data);
    return pub->one_way ? finish_one_way(pub, exit_code, begin_ns)
                        : finish(pub, exit_code, begin_ns);
}

static int
send_lines(struct pub *pub, struct input *input)
{
    while (!input->is_at_end) {
        if (fill(input) != Q_OK) return report_error("read \"%s\"", pub->from);

        struct q_bytes line;
        while (next_line(input, &line)) {
            if (interrupt_signal()) return EXIT_SIGNAL_BASE + interrupt_signal();
            /* Told by finish(). */
            if (atomic_load(&pub->has_failed) && !pub->one_way) return EXIT_OK;
            int exit_code = send_line(pub, line);
            if (exit_code != EXIT_OK) return exit_code;
        }
        if (interrupt_signal()) return EXIT_SIGNAL_BASE + interrupt_signal();
    }
    return EXIT_OK;
}

static int
send_line(struct pub *pub, struct q_bytes line)
{
    struct qmq_outgoing message = message_of(pub, line);
    struct qmq_bytes tags[TAGS_MAX];
    struct qmq_bytes tag = field(line, pub->tag_field);
    if (tag.size > 0) {
        memcpy(tags, pub->tags, sizeof(tags));
        tags[message.tag_count++] = tag;
        message.tags = tags;
    }
    if (pub->order_key_field) message.order_key = field(line, pub->order_key_field);
    int code;
    do {
        code = qmq_send(pub->producer, pub->subject, &message, on_sent, pub);
    } while (code == QMQ_BUSY && !pub->one_way && !interrupt_signal() &&
             !atomic_load(&pub->has_failed));

    if (code == QMQ_OK) pub->lines++;
    if (code == QMQ_OK || code == QMQ_BUSY) return EXIT_OK;
    /* Dropped, and counted. */
    if (pub->one_way && qmq_last_error().retryable) {
        if (pub->first_drop.err == Q_OK) pub->first_drop = *q_fault_last();
        return EXIT_OK;
    }
    return report_error(
        "publish line %llu to \"%s\"", (unsigned long long)pub->lines + 1, pub->subject);
}

static void
on_sent(void *context, const struct qmq_sent *sent)
{
    struct pub *pub = context;

    if (sent->code == QMQ_OK) {
        pub->stored++;
        pub->maybe_duplicate += sent->maybe_duplicate;
    } else if (!atomic_load(&pub->has_failed)) {
        pub->first_failure = *q_fault_last();
        atomic_store(&pub->has_failed, true);
    }
}

static int
finish(struct pub *pub, int exit_code, uint64_t begin_ns)
{
    (void)qmq_flush(pub->producer, interrupt_signal() ? FLUSH_INTERRUPTED_MS : FLUSH_MS);
    double took_s =
        (double)(q_clock_monotonic_ns(q_clock_system()) - begin_ns) / (double)Q_NS_PER_S;

    if (atomic_load(&pub->has_failed) && exit_code == EXIT_OK) {
        q_fault_adopt(&pub->first_failure);
        exit_code = report_error(
            "publish line %llu to \"%s\"", (unsigned long long)pub->stored + 1, pub->subject);
        if (pub->stored > 0) exit_code = EXIT_PARTLY;
    }
    if (exit_code != EXIT_OK && pub->stored == 0) return exit_code;
    (void)fprintf(
        stderr, "sent  %s  %llu messages in %.2f s, %.0f/s", pub->subject,
        (unsigned long long)pub->stored, took_s, (double)pub->stored / took_s);
    if (pub->maybe_duplicate > 0)
        (void)fprintf(
            stderr, "; %llu maybe twice, since answers were lost",
            (unsigned long long)pub->maybe_duplicate);
    (void)fprintf(stderr, "\n");
    return exit_code;
}

/* What was dropped, and where. A broker may have dropped some that it got: it counts those itself. */
static int
finish_one_way(struct pub *pub, int exit_code, uint64_t begin_ns)
{
    (void)qmq_flush(pub->producer, interrupt_signal() ? FLUSH_INTERRUPTED_MS : FLUSH_MS);
    double took_s =
        (double)(q_clock_monotonic_ns(q_clock_system()) - begin_ns) / (double)Q_NS_PER_S;
    struct qmq_producer_counts counts;
    qmq_producer_counts(pub->producer, &counts);
    uint64_t dropped = counts.not_taken + counts.refused + counts.unsent + counts.waiting;

    (void)fprintf(
        stderr, "sent  %s  one way: %llu messages came to a broker in %.2f s; dropped %llu",
        pub->subject, (unsigned long long)counts.stored, took_s, (unsigned long long)dropped);
    if (dropped > 0)
        (void)fprintf(
            stderr, " (no room %llu, too late %llu, refused %llu)",
            (unsigned long long)counts.not_taken,
            (unsigned long long)(counts.unsent + counts.waiting),
            (unsigned long long)counts.refused);
    (void)fprintf(stderr, "; lost on the way, or not, %llu\n", (unsigned long long)counts.unknown);
    if (atomic_load(&pub->has_failed) && exit_code == EXIT_OK) {
        q_fault_adopt(&pub->first_failure);
        exit_code = report_error("publish some of it to \"%s\"", pub->subject);
    }
    if (counts.stored == 0 && exit_code == EXIT_OK && pub->first_drop.err != Q_OK) {
        q_fault_adopt(&pub->first_drop);
        exit_code = report_error("publish any of it to \"%s\"", pub->subject);
    }
    bool is_partly = counts.stored > 0 && (dropped > 0 || counts.unknown > 0);
    return is_partly && !interrupt_signal() ? EXIT_PARTLY : exit_code;
}

/* The word with this number, from 1; empty for 0, when the line has fewer, and for what can't be a
 * tag. */
static struct qmq_bytes
field(struct q_bytes line, uint64_t number)
{
    static const char blanks[] = " \t\r";
    size_t at = 0;
    size_t begin = 0;

    for (uint64_t word = 0; word < number; word++) {
        while (at < line.size && memchr(blanks, line.data[at], sizeof(blanks) - 1))
            at++;
        begin = at;
        while (at < line.size && !memchr(blanks, line.data[at], sizeof(blanks) - 1))
            at++;
    }
    bool is_tag = at - begin <= TAG_MAX && !memchr(line.data + begin, '\0', at - begin);
    return (struct qmq_bytes){ line.data + begin, is_tag ? at - begin : 0 };
}

static struct qmq_outgoing
message_of(const struct pub *pub, struct q_bytes body)
{
    uint64_t delay_ms = pub->delay_ns / Q_NS_PER_MS;
    return (struct qmq_outgoing){
        .due_ms = delay_ms > 0 ? q_clock_wall_ms(q_clock_system()) + delay_ms : pub->due_ms,
        .body = { body.data, body.size },
        .tags = pub->tags,
        .tag_count = pub->tag_count,
        .keys = &pub->key,
        .key_count = pub->key.size > 0,
        .order_key = pub->order_key,
    };
}

/* Read what there is, behind what is still unused. Q_OK also when a signal came instead. */
static enum q_err
fill(struct input *input)
{
    if (input->begin > 0) {
        memmove(input->data, input->data + input->begin, input->end - input->begin);
        input->end -= input->begin;
        input->begin = 0;
    }
    if (input->capacity - input->end < READ_SIZE) {
        size_t capacity = input->capacity ? input->capacity * 2 : BUFFER_FIRST;
        uint8_t *grown = realloc(input->data, capacity);
        if (!grown) return Q_FAIL(Q_E_NOMEM, .what = "a line is too long");
        input->data = grown;
        input->capacity = capacity;
    }

    ssize_t got = read(input->fd, input->data + input->end, input->capacity - input->end);
    if (got < 0 && errno == EINTR) return Q_OK;
    if (got < 0 && errno == EISDIR)
        return Q_FAIL(Q_INVALID, .what = "it is a directory", .hint = "name a file");
    if (got < 0) return Q_FAIL(q_err_from_errno(errno), .sys = errno);
    input->is_at_end = got == 0;
    input->end += (size_t)got;
    return Q_OK;
}

/* Without its newline. At the end of the file a line without one counts, too. */
static bool
next_line(struct input *input, struct q_bytes *ret_line)
{
    const uint8_t *data = input->data + input->begin;
    size_t size = input->end - input->begin;
    if (size == 0) return false;

    const uint8_t *newline = memchr(data, '\n', size);
    bool is_too_long = !newline && size > BODY_MAX;
    if (!newline && !input->is_at_end && !is_too_long) return false;
    size_t length = newline ? (size_t)(newline - data) : size;
    *ret_line = q_bytes_from(data, length);
    input->begin += length + (newline ? 1 : 0);
    return true;
}

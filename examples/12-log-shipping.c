/*
 * 12-log-shipping: send the lines of a log to where they can be searched, and never be in its program's way.
 *
 *     ./12-log-shipping [META [FILE]]        the lines of FILE, or of standard input
 *
 * Lines go one way: nobody waits for an answer. When no broker is there they wait in memory, up to 64 MiB
 * or 100,000 of them, for at most a minute; then they are dropped. What was dropped is counted, here and
 * at the broker (`qmq brokers`), so that a gap in the log is no surprise.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qmq/qmq.h>

enum {
    FLUSH_MS = 90 * 1000,
    LINE_MAX_BYTES = 64 * 1024
};

static void
expect(int code, const char *what)
{
    if (code == QMQ_OK) return;
    (void)fprintf(stderr, "%s: %s\n", what, qmq_last_error().message);
    if (*qmq_last_error().hint) (void)fprintf(stderr, "  %s\n", qmq_last_error().hint);
    exit(1);
}

static unsigned long
ship(FILE *file, struct qmq_producer *producer)
{
    static char line[LINE_MAX_BYTES]; /* longer ones come in pieces */
    const struct qmq_bytes tag = { "web", 3 };
    unsigned long lines = 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        const struct qmq_outgoing message = {
            .body = { line, strcspn(line, "\n") },
            .tags = &tag,
            .tag_count = 1,
        };
        /* QMQ_BUSY: there was no room. It is counted, and the log goes on. */
        int code = qmq_send(producer, "logs", &message, NULL, NULL);
        if (code != QMQ_BUSY) expect(code, "send");
        lines++;
    }
    return lines;
}

int
main(int argc, char **argv)
{
    const struct qmq_client_options options = { .meta = argc > 1 ? argv[1] : NULL };
    const struct qmq_producer_options one_way = {
        .one_way = true,
        .compress = true,
        .memory_bytes_max = 64 * 1024 * 1024,
        .queue_messages_max = 100 * 1000,
        .deadline_ms = 60 * 1000,
    };
    FILE *file = argc > 2 ? fopen(argv[2], "r") : stdin;
    if (file == NULL) {
        perror(argv[2]);
        return 1;
    }
    struct qmq_client *client;
    struct qmq_producer *producer;
    expect(qmq_connect(&options, &client), "connect");
    expect(qmq_producer_new(client, &one_way, &producer), "producer");

    unsigned long lines = ship(file, producer);
    (void)qmq_flush(producer, FLUSH_MS);
    struct qmq_producer_counts counts;
    qmq_producer_counts(producer, &counts);
    (void)printf(
        "%lu lines: %llu came to a broker, %llu had no room, %llu came too late, "
        "%llu were refused, %llu may be lost\n",
        lines, (unsigned long long)counts.stored, (unsigned long long)counts.not_taken,
        (unsigned long long)(counts.unsent + counts.waiting), (unsigned long long)counts.refused,
        (unsigned long long)counts.unknown);
    qmq_producer_free(producer);
    qmq_client_free(client);
    (void)fclose(file);
    return 0;
}

/*
 * 09-idempotent: a payment that comes twice is booked once.
 *
 *     ./09-idempotent [META [DATABASE]]
 *
 * A payment has a number of its own, since who pays may send it twice. That it was handled is written
 * in the transaction that books it: whatever dies and whenever, both are there or neither is.
 */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qmq/sqlite.h>

enum {
    WAIT_MS = 60 * 1000
};

struct bank {
    sqlite3 *database; /* the handler's own; one for each of its threads */
    struct qmq_once *once;
};

static void
expect(int code, const char *what)
{
    if (code == QMQ_OK) return;
    (void)fprintf(stderr, "%s: %s\n", what, qmq_last_error().message);
    exit(1);
}

static int
sql(sqlite3 *database, const char *text)
{
    return sqlite3_exec(database, text, NULL, NULL, NULL);
}

/* By what a payment is known again; without this it would be subject, group and id of the message. One
 * without a number fails: all such would look like one. */
static struct qmq_bytes
payment_number(void *context, const struct qmq_message *message)
{
    struct qmq_bytes number = { "", 0 };
    (void)context;
    (void)qmq_message_property(message, "payment", &number);
    return number;
}

/* What has no caller. */
static void
complain(void *context, const struct qmq_trouble *trouble)
{
    (void)context;
    (void)fprintf(stderr, "%s: %s\n", trouble->error.name, trouble->error.message);
}

static int
book(void *context, const struct qmq_message *message, struct qmq_delivery *delivery)
{
    struct bank *bank = context;
    char amount[16];
    char text[96];
    (void)snprintf(
        amount, sizeof(amount), "%.*s", (int)message->body.size, (const char *)message->body.data);
    (void)snprintf(
        text, sizeof(text), "UPDATE account SET balance = balance + %lu",
        strtoul(amount, NULL, 10));
    if (sql(bank->database, "BEGIN IMMEDIATE") != SQLITE_OK) return 1;
    bool is_done =
        sql(bank->database, text) == SQLITE_OK &&
        qmq_sqlite_once_done(bank->once, bank->database, qmq_delivery_key(delivery)) == QMQ_OK;
    return sql(bank->database, is_done ? "COMMIT" : "ROLLBACK") == SQLITE_OK && is_done ? 0 : 1;
}

static void
pay(struct qmq_client *client, const char *number, const char *amount)
{
    struct qmq_producer *producer;
    expect(qmq_producer_new(client, NULL, &producer), "producer");
    struct qmq_property property = { { "payment", 7 }, { number, strlen(number) } };
    struct qmq_outgoing message = {
        .body = { amount, strlen(amount) },
        .properties = &property,
        .property_count = 1,
    };
    expect(qmq_send_wait(producer, "payments", &message, NULL), "pay");
    qmq_producer_free(producer);
}

static int
print_balance(void *context, int columns, char **values, char **names)
{
    (void)context;
    (void)columns;
    (void)names;
    (void)printf("balance %s\n", values[0]);
    return 0;
}

int
main(int argc, char **argv)
{
    const char *path = argc > 2 ? argv[2] : "bank.db";
    struct qmq_client_options options = { .meta = argc > 1 ? argv[1] : NULL };
    struct qmq_client *client;
    expect(qmq_connect(&options, &client), "connect");
    pay(client, "A-1", "100");
    pay(client, "A-2", "20");
    pay(client, "A-1", "100"); /* nobody knew whether the first had arrived */

    struct bank bank;
    if (qmq_sqlite_once_open(path, NULL, &bank.once) != QMQ_OK ||
        sqlite3_open(path, &bank.database) != SQLITE_OK)
    {
        (void)fprintf(stderr, "%s\n", qmq_sqlite_last_error().message);
        return 1;
    }
    (void)sqlite3_busy_timeout(bank.database, WAIT_MS);
    (void)sql(
        bank.database, "CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance)");
    (void)sql(bank.database, "INSERT OR IGNORE INTO account VALUES (1, 0)");

    struct qmq_consumer_options from = { .subject = "payments", .group = "bank" };
    struct qmq_push_options handling = {
        .consumer = &from,
        .handler = book,
        .context = &bank,
        .once = bank.once,
        .once_key = payment_number,
        .trouble = complain,
    };
    struct qmq_push *push;
    struct qmq_push_info info = { .handled = 0 };
    expect(qmq_push_new(client, &handling, &push), "handler");
    for (; info.handled + info.repeated < 3; usleep(10000))
        qmq_push_info(push, &info);
    expect(qmq_push_stop(push, WAIT_MS), "stop");
    qmq_push_free(push);

    (void)printf("%llu came again\n", (unsigned long long)info.repeated);
    (void)sqlite3_exec(bank.database, "SELECT balance FROM account", print_balance, NULL, NULL);
    (void)sqlite3_close(bank.database);
    qmq_sqlite_once_close(bank.once);
    qmq_client_free(client);
    return 0;
}

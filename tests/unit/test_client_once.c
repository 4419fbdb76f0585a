/*
 * test_client_once.c: what remembers which messages were handled: in memory, and in SQLite. Both are
 * held against the same expectations.
 */
#include <ftw.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include <qmq/sqlite.h>

static char directory[64];
static char path[96];

static int
remove_one(const char *name, const struct stat *about, int kind, struct FTW *place)
{
    (void)about;
    (void)kind;
    (void)place;
    return remove(name);
}

static void
set_up(void)
{
    (void)snprintf(directory, sizeof(directory), "/tmp/qmq-once-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    (void)snprintf(path, sizeof(path), "%s/once.db", directory);
}

static void
tear_down(void)
{
    (void)nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

TestSuite(client_once, .init = set_up, .fini = tear_down, .timeout = 120);

#define expect_ok(call) cr_assert_eq((call), QMQ_OK, "%s", qmq_sqlite_last_error().message)

static struct qmq_bytes
bytes(const char *text)
{
    return (struct qmq_bytes){ text, strlen(text) };
}

static enum qmq_once_state
begin(struct qmq_once *once, const char *key)
{
    return once->begin(once->context, bytes(key));
}

static void
end(struct qmq_once *once, const char *key, bool is_done)
{
    expect_ok(once->end(once->context, bytes(key), is_done));
}

static struct qmq_once *
memory_new(uint32_t count_max, uint32_t keep_ms)
{
    struct qmq_once_memory_options options = { .count_max = count_max, .keep_ms = keep_ms };
    struct qmq_once *once;
    cr_assert_eq(qmq_once_memory_new(&options, &once), QMQ_OK);
    return once;
}

static struct qmq_once *
sqlite_open(uint64_t keep_ms, uint32_t lease_ms)
{
    struct qmq_sqlite_once_options options = { .keep_ms = keep_ms, .lease_ms = lease_ms };
    struct qmq_once *once;
    expect_ok(qmq_sqlite_once_open(path, &options, &once));
    return once;
}

static void
expect_contract(struct qmq_once *once)
{
    cr_assert_eq(begin(once, "a"), QMQ_ONCE_NEW);
    cr_assert_eq(begin(once, "a"), QMQ_ONCE_BUSY);
    cr_assert_eq(begin(once, "b"), QMQ_ONCE_NEW);
    end(once, "a", true);
    cr_assert_eq(begin(once, "a"), QMQ_ONCE_DONE);
    end(once, "b", false);
    cr_assert_eq(begin(once, "b"), QMQ_ONCE_NEW);
    end(once, "b", true);
    cr_assert_eq(begin(once, "b"), QMQ_ONCE_DONE);
    cr_assert_eq(begin(once, ""), QMQ_ONCE_NEW);
    end(once, "", true);
    cr_assert_eq(begin(once, ""), QMQ_ONCE_DONE);
    cr_assert_eq(begin(once, "a"), QMQ_ONCE_DONE);
    end(once, "never began", false);
}

Test(client_once, memory_keeps_its_contract)
{
    struct qmq_once *once = memory_new(0, 0);
    expect_contract(once);
    qmq_once_memory_free(once);
    qmq_once_memory_free(NULL);
}

Test(client_once, sqlite_keeps_its_contract)
{
    struct qmq_once *once = sqlite_open(0, 0);
    expect_contract(once);
    qmq_sqlite_once_close(once);
    qmq_sqlite_once_close(NULL);

    once = sqlite_open(0, 0);
    cr_assert_eq(begin(once, "a"), QMQ_ONCE_DONE, "it survives");
    qmq_sqlite_once_close(once);
}

/* The first handled makes room; what is being handled never does. */
Test(client_once, memory_is_bounded)
{
    struct qmq_once *once = memory_new(3, 0);
    cr_assert_eq(begin(once, "1"), QMQ_ONCE_NEW);
    cr_assert_eq(begin(once, "2"), QMQ_ONCE_NEW);
    cr_assert_eq(begin(once, "3"), QMQ_ONCE_NEW);
    cr_assert_eq(begin(once, "4"), QMQ_ONCE_FAILED, "all are being handled");
    end(once, "2", true);
    end(once, "1", true);
    cr_assert_eq(begin(once, "4"), QMQ_ONCE_NEW);
    cr_assert_eq(begin(once, "1"), QMQ_ONCE_DONE);
    cr_assert_eq(begin(once, "3"), QMQ_ONCE_BUSY);
    cr_assert_eq(begin(once, "2"), QMQ_ONCE_NEW, "forgotten: it was the first");
    cr_assert_eq(begin(once, "1"), QMQ_ONCE_FAILED, "forgotten too, and there is no room");
    for (unsigned number = 0; number < 10000; number++) {
        char key[16];
        (void)snprintf(key, sizeof(key), "k%u", number);
        end(once, number % 2 ? "2" : "4", number % 3 == 0);
        (void)begin(once, key);
        end(once, key, true);
    }
    qmq_once_memory_free(once);
}

Test(client_once, what_is_old_is_forgotten)
{
    struct qmq_once *memory = memory_new(0, 1);
    struct qmq_once *sqlite = sqlite_open(1, 0);
    struct qmq_once *all[] = { memory, sqlite };
    for (unsigned index = 0; index < 2; index++) {
        cr_assert_eq(begin(all[index], "a"), QMQ_ONCE_NEW);
        end(all[index], "a", true);
        usleep(10000);
        cr_assert_eq(begin(all[index], "a"), QMQ_ONCE_NEW);
    }
    qmq_once_memory_free(memory);
    qmq_sqlite_once_close(sqlite);
}

static int64_t
ask(sqlite3 *database, const char *text)
{
    sqlite3_stmt *statement;
    cr_assert_eq(sqlite3_prepare_v2(database, text, -1, &statement, NULL), SQLITE_OK);
    cr_assert_eq(sqlite3_step(statement), SQLITE_ROW);
    int64_t value = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return value;
}

static void
tell(sqlite3 *database, const char *text)
{
    char *error = NULL;
    cr_assert_eq(sqlite3_exec(database, text, NULL, NULL, &error), SQLITE_OK, "%s", error);
}

static sqlite3 *
own_connection(void)
{
    sqlite3 *database;
    cr_assert_eq(sqlite3_open(path, &database), SQLITE_OK);
    cr_assert_eq(sqlite3_busy_timeout(database, 60 * 1000), SQLITE_OK);
    return database;
}

/* Rows whose time is over go, some at a time. */
Test(client_once, sqlite_is_swept)
{
    struct qmq_once *once = sqlite_open(1, 0);
    for (unsigned number = 0; number < 100; number++) {
        char key[16];
        (void)snprintf(key, sizeof(key), "k%u", number);
        cr_assert_eq(begin(once, key), QMQ_ONCE_NEW);
        end(once, key, true);
    }
    qmq_sqlite_once_close(once);
    usleep(10000);
    once = sqlite_open(1, 0);
    cr_assert_eq(begin(once, "new"), QMQ_ONCE_NEW);
    sqlite3 *database = own_connection();
    cr_assert_eq(ask(database, "SELECT count(*) FROM qmq_once"), 1);
    sqlite3_close(database);
    qmq_sqlite_once_close(once);
}

/* A process that died in a handler has no claim for ever; one that lives has. */
Test(client_once, sqlite_takes_over_from_the_dead)
{
    struct qmq_once *dead = sqlite_open(0, 0);
    cr_assert_eq(begin(dead, "a"), QMQ_ONCE_NEW);
    qmq_sqlite_once_close(dead);
    struct qmq_once *once = sqlite_open(0, 0);
    cr_assert_eq(begin(once, "a"), QMQ_ONCE_BUSY);
    qmq_sqlite_once_close(once);

    struct qmq_once *slow = sqlite_open(0, 1);
    cr_assert_eq(begin(slow, "b"), QMQ_ONCE_NEW);
    usleep(10000);
    once = sqlite_open(0, 0);
    cr_assert_eq(begin(once, "b"), QMQ_ONCE_NEW);
    end(slow, "b", false);
    cr_assert_eq(begin(slow, "b"), QMQ_ONCE_BUSY, "who was taken over can't end it");
    qmq_sqlite_once_close(slow);
    qmq_sqlite_once_close(once);
}

/* With the handler's own rows: both or neither, and never twice. */
Test(client_once, sqlite_commits_with_the_handlers_rows)
{
    struct qmq_once *once = sqlite_open(0, 1);
    sqlite3 *database = own_connection();
    tell(database, "CREATE TABLE account (balance INTEGER); INSERT INTO account VALUES (0)");
    cr_assert_eq(qmq_sqlite_once_done(once, database, bytes("a")), QMQ_INVALID, "no transaction");

    cr_assert_eq(begin(once, "a"), QMQ_ONCE_NEW);
    tell(database, "BEGIN IMMEDIATE; UPDATE account SET balance = balance + 1");
    expect_ok(qmq_sqlite_once_done(once, database, bytes("a")));
    tell(database, "ROLLBACK");
    end(once, "a", false);

    /* The process is killed behind the commit: nobody calls `end`. */
    cr_assert_eq(begin(once, "a"), QMQ_ONCE_NEW);
    tell(database, "BEGIN IMMEDIATE; UPDATE account SET balance = balance + 1");
    expect_ok(qmq_sqlite_once_done(once, database, bytes("a")));
    tell(database, "COMMIT");
    struct qmq_once *next = sqlite_open(0, 0);
    cr_assert_eq(begin(next, "a"), QMQ_ONCE_DONE);

    /* One that was so slow that another took over: only the first commit counts. */
    cr_assert_eq(begin(once, "b"), QMQ_ONCE_NEW);
    usleep(10000);
    cr_assert_eq(begin(next, "b"), QMQ_ONCE_NEW);
    tell(database, "BEGIN IMMEDIATE; UPDATE account SET balance = balance + 1");
    cr_assert_eq(qmq_sqlite_once_done(once, database, bytes("b")), QMQ_EXPIRED);
    tell(database, "ROLLBACK; BEGIN IMMEDIATE; UPDATE account SET balance = balance + 1");
    expect_ok(qmq_sqlite_once_done(next, database, bytes("b")));
    tell(database, "COMMIT; BEGIN IMMEDIATE; UPDATE account SET balance = balance + 1");
    cr_assert_eq(qmq_sqlite_once_done(next, database, bytes("b")), QMQ_EXPIRED);
    tell(database, "ROLLBACK");
    end(next, "b", true);
    cr_assert_eq(ask(database, "SELECT balance FROM account"), 2);
    sqlite3_close(database);
    qmq_sqlite_once_close(next);
    qmq_sqlite_once_close(once);
}

struct racer {
    pthread_t thread;
    struct qmq_once *once;
    unsigned begun;
};

static void *
race(void *context)
{
    struct racer *racer = context;
    for (unsigned number = 0; number < 300; number++) {
        char key[16];
        (void)snprintf(key, sizeof(key), "k%u", number);
        if (begin(racer->once, key) != QMQ_ONCE_NEW) continue;
        racer->begun++;
        end(racer->once, key, true);
    }
    return NULL;
}

/* Of many that meet the same message, one begins. `second`: of two processes, so to say. */
static void
expect_one_of_many(struct qmq_once *first, struct qmq_once *second)
{
    struct racer racers[4];
    unsigned begun = 0;
    for (unsigned index = 0; index < 4; index++) {
        racers[index] = (struct racer){ .once = index % 2 ? second : first };
        pthread_create(&racers[index].thread, NULL, race, &racers[index]);
    }
    for (unsigned index = 0; index < 4; index++) {
        pthread_join(racers[index].thread, NULL);
        begun += racers[index].begun;
    }
    cr_assert_eq(begun, 300);
}

Test(client_once, one_of_many_begins)
{
    struct qmq_once *memory = memory_new(0, 0);
    expect_one_of_many(memory, memory);
    qmq_once_memory_free(memory);

    struct qmq_sqlite_once_options options = { .busy_ms = 60 * 1000 };
    struct qmq_once *first;
    struct qmq_once *second;
    expect_ok(qmq_sqlite_once_open(path, &options, &first));
    expect_ok(qmq_sqlite_once_open(path, &options, &second));
    expect_one_of_many(first, second);
    qmq_sqlite_once_close(first);
    qmq_sqlite_once_close(second);
}

Test(client_once, sqlite_says_what_is_wrong)
{
    struct qmq_once *once;
    cr_assert_neq(qmq_sqlite_once_open("/nowhere/at/all", NULL, &once), QMQ_OK);
    cr_assert_not_null(strstr(qmq_sqlite_last_error().message, "/nowhere/at/all"));

    const char *const names[] = { "", "1a", "a b", "a;DROP TABLE x", "a\"" };
    for (unsigned index = 0; index < sizeof(names) / sizeof(names[0]); index++) {
        struct qmq_sqlite_once_options options = { .table = names[index] };
        cr_assert_eq(qmq_sqlite_once_open(path, &options, &once), QMQ_INVALID);
    }

    FILE *file = fopen(path, "w");
    for (unsigned index = 0; index < 1000; index++)
        (void)fputs("this is no database", file);
    (void)fclose(file);
    cr_assert_eq(qmq_sqlite_once_open(path, NULL, &once), QMQ_E_CORRUPT);
    cr_assert_not_null(strstr(qmq_sqlite_last_error().message, path));
}

/* Another writer keeps its transaction open: nothing is handled on suspicion. */
Test(client_once, sqlite_waits_for_writers_for_a_while)
{
    struct qmq_sqlite_once_options options = { .busy_ms = 20 };
    struct qmq_once *once;
    expect_ok(qmq_sqlite_once_open(path, &options, &once));
    sqlite3 *database = own_connection();
    tell(database, "BEGIN IMMEDIATE");
    cr_assert_eq(begin(once, "a"), QMQ_ONCE_FAILED);
    cr_assert_eq(qmq_sqlite_last_error().code, QMQ_BUSY);
    cr_assert_eq(once->end(once->context, bytes("a"), true), QMQ_BUSY);
    tell(database, "ROLLBACK");
    cr_assert_eq(begin(once, "a"), QMQ_ONCE_NEW);
    sqlite3_close(database);
    qmq_sqlite_once_close(once);
}

#include "when.h"

#include <stdio.h>
#include <string.h>

#include <qbase/clock.h>
#include <qbase/text.h>

static bool parse_date(const char *text, uint64_t *ret_ms);
static bool parse_zone(const char *text, int64_t *ret_minutes);
static int64_t days_from_civil(int64_t year, unsigned month, unsigned day);

enum q_err
when_parse(const char *text, uint64_t now_ms, uint64_t *ret_ms)
{
    uint64_t ns;
    if (strcmp(text, "now") == 0) {
        *ret_ms = now_ms;
        return Q_OK;
    }
    if (text[0] == '-' && q_text_parse_duration(text + 1, &ns) == Q_OK) {
        uint64_t ms = ns / Q_NS_PER_MS;
        *ret_ms = ms > now_ms ? 0 : now_ms - ms;
        return Q_OK;
    }
    if (q_text_parse_u64(text, 0, (uint64_t)1 << 48, ret_ms) == Q_OK) return Q_OK;
    if (parse_date(text, ret_ms)) return Q_OK;
    return Q_FAIL(
        Q_INVALID, .what = q_text("'%s' is no time", text),
        .hint = "write 2026-01-11T04:15:02Z, ms since 1970, or -5m for five minutes ago");
}

static bool
parse_date(const char *text, uint64_t *ret_ms)
{
    unsigned year;
    unsigned month;
    unsigned day;
    unsigned hour = 0;
    unsigned minute = 0;
    double second = 0;
    int used = 0;
    int64_t zone = 0;
    if (sscanf(text, "%4u-%2u-%2u%n", &year, &month, &day, &used) != 3 || used != 10) return false;
    text += used;
    if (*text != '\0') {
        used = 0;
        bool clock = sscanf(text, "%*1[Tt ]%2u:%2u:%6lf%n", &hour, &minute, &second, &used) == 3 &&
                     used > 0 && parse_zone(text + used, &zone);
        if (!clock) return false;
    }
    static const unsigned char days[] = { 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (year < 1970 || month < 1 || month > 12 || day < 1 || day > days[month - 1]) return false;
    if ((month == 2 && day == 29 && !leap) || hour > 23 || minute > 59 || second < 0 ||
        second >= 61)
        return false;
    int64_t minutes = days_from_civil(year, month, day) * 1440 + hour * 60 + minute - zone;
    if (minutes < 0) return false;
    *ret_ms = (uint64_t)minutes * 60 * Q_MS_PER_S + (uint64_t)(second * Q_MS_PER_S + 0.5);
    return true;
}

static bool
parse_zone(const char *text, int64_t *ret_minutes)
{
    *ret_minutes = 0;
    if (strcmp(text, "Z") == 0 || strcmp(text, "z") == 0) return true;
    unsigned hours;
    unsigned minutes;
    int used = 0;
    if (text[0] != '+' && text[0] != '-') return false;
    if (sscanf(text + 1, "%2u:%2u%n", &hours, &minutes, &used) != 2 || used != 5 ||
        text[1 + used] != '\0')
        return false;
    *ret_minutes = (int64_t)(hours * 60 + minutes) * (text[0] == '-' ? -1 : 1);
    return hours < 24 && minutes < 60;
}

/* Days since 1970, proleptic Gregorian: a year begins in March, so that leap days are at its end. */
static int64_t
days_from_civil(int64_t year, unsigned month, unsigned day)
{
    year -= month <= 2 ? 1 : 0;
    int64_t era = year / 400;
    int64_t of_era = year - era * 400;
    int64_t of_year = (153 * ((int64_t)month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    int64_t days = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    return era * 146097 + days - 719468;
}

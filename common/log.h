/*
 * log: one line per event to stderr (systemd's journal takes it from there): "<6>hikae-primary[vm web]: text" when
 * JOURNAL_STREAM is set, else "HH:MM:SS.mmm hikae-primary[vm web]: warning: text". Never blocks for long, never fails.
 */
#ifndef HIKAE_COMMON_LOG_H
#define HIKAE_COMMON_LOG_H

void log_open(const char *program, const char *vm /* NULL: none */);
void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2))); /* shown when HIKAE_DEBUG is set */
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif

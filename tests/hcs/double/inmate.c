/* A program for containers: a few commands of Unix' names, chosen by the name that it is called by, or by its first
 * argument. It writes bytes as they are, with "\n" at the ends of lines. */
#include <windows.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

static int say(DWORD which, const char *data, DWORD size)
{
    DWORD done;
    while (size) {
        if (!WriteFile(GetStdHandle(which), data, size, &done, NULL))
            return 1;
        data += done;
        size -= done;
    }
    return 0;
}

static int say_wide(const WCHAR *value)
{
    char made[32768];
    int size = WideCharToMultiByte(CP_UTF8, 0, value, -1, made, sizeof made, NULL, NULL);
    return size ? say(STD_OUTPUT_HANDLE, made, size - 1) : 0;
}

static int cat(void)
{
    static char data[65536];
    DWORD size;
    while (ReadFile(GetStdHandle(STD_INPUT_HANDLE), data, sizeof data, &size, NULL) && size)
        if (say(STD_OUTPUT_HANDLE, data, size))
            return 1;
    return 0;
}

static int spew(unsigned long long count)
{
    static char data[65536];
    for (; count; count -= count < sizeof data ? count : sizeof data)
        if (say(STD_OUTPUT_HANDLE, data, (DWORD)(count < sizeof data ? count : sizeof data)))
            return 1;
    return 0;
}

/* Ends with `code` when it is told to end by a control event. */
static int trap(int code)
{
    WCHAR name[80];
    swprintf(name, 80, L"Local\\vmcompute-double-control-%lu", GetCurrentProcessId());
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, name);
    say(STD_OUTPUT_HANDLE, "ready\n", 6);
    WaitForSingleObject(event, INFINITE);
    return code;
}

/* Ends, and leaves a child that holds its streams. */
static int hold(void)
{
    WCHAR path[MAX_PATH], line[] = L"inmate sleep infinity";
    STARTUPINFOW start = {sizeof start};
    PROCESS_INFORMATION made;
    GetModuleFileNameW(NULL, path, MAX_PATH);
    GetStartupInfoW(&start);
    start.dwFlags = STARTF_USESTDHANDLES;
    start.hStdInput = GetStdHandle(STD_INPUT_HANDLE);
    start.hStdOutput = GetStdHandle(STD_OUTPUT_HANDLE);
    start.hStdError = GetStdHandle(STD_ERROR_HANDLE);
    return !CreateProcessW(path, line, NULL, NULL, TRUE, 0, NULL, NULL, &start, &made);
}

static int env(void)
{
    for (WCHAR *at = GetEnvironmentStringsW(); *at; at += wcslen(at) + 1) {
        say_wide(at);
        say(STD_OUTPUT_HANDLE, "\n", 1);
    }
    return 0;
}

/* A path of drive Z: is one of Unix: Wine shows the root there. */
static int pwd(void)
{
    WCHAR path[MAX_PATH];
    GetCurrentDirectoryW(MAX_PATH, path);
    if (!_wcsnicmp(path, L"Z:", 2)) {
        memmove(path, path + 2, (wcslen(path) - 1) * sizeof *path);
        for (WCHAR *at = path; *at; at++)
            if (*at == '\\')
                *at = '/';
    }
    say_wide(path);
    return say(STD_OUTPUT_HANDLE, "\n", 1);
}

/* The size of its console: of the pseudo one, which the double tells as the number of characters to begin with. */
static int size(void)
{
    char line[40];
    STARTUPINFOW start = {sizeof start};
    GetStartupInfoW(&start);
    snprintf(line, sizeof line, "%lu %lu\n", start.dwYCountChars, start.dwXCountChars);
    return say(STD_OUTPUT_HANDLE, line, (DWORD)strlen(line));
}

static int echo(int count, WCHAR **words)
{
    for (int i = 0; i < count; i++) {
        if (i)
            say(STD_OUTPUT_HANDLE, " ", 1);
        say_wide(words[i]);
    }
    return say(STD_OUTPUT_HANDLE, "\n", 1);
}

int wmain(int count, WCHAR **words)
{
    WCHAR *name = count ? words[0] : L"";
    for (WCHAR *at = name; *at; at++)
        if (*at == '\\' || *at == '/')
            name = at + 1;
    WCHAR word[40];
    wcsncpy(word, name, 39);
    word[39] = 0;
    WCHAR *dot = wcsrchr(word, '.');
    if (dot)
        *dot = 0;
    if (!_wcsicmp(word, L"inmate")) {
        if (count < 2)
            return 2;
        wcsncpy(word, words[1], 39);
        words++;
        count--;
    }
    const WCHAR *first = count > 1 ? words[1] : L"";
    if (!wcscmp(word, L"true"))
        return 0;
    if (!wcscmp(word, L"exit"))
        return (int)wcstoul(first, NULL, 0);
    if (!wcscmp(word, L"cat"))
        return cat();
    if (!wcscmp(word, L"echo"))
        return echo(count - 1, words + 1);
    if (!wcscmp(word, L"sleep")) {
        Sleep(!wcscmp(first, L"infinity") ? INFINITE : (DWORD)(wcstod(first, NULL) * 1000));
        return 0;
    }
    if (!wcscmp(word, L"env"))
        return env();
    if (!wcscmp(word, L"pwd"))
        return pwd();
    if (!wcscmp(word, L"both"))
        return say(STD_OUTPUT_HANDLE, "out\n", 4) | say(STD_ERROR_HANDLE, "err\n", 4);
    if (!wcscmp(word, L"spew"))
        return spew(wcstoull(first, NULL, 10));
    if (!wcscmp(word, L"trap"))
        return trap((int)wcstol(first, NULL, 10));
    if (!wcscmp(word, L"hold"))
        return hold();
    if (!wcscmp(word, L"size"))
        return size();
    return 127;
}

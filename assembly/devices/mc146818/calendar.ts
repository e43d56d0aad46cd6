// SPDX-License-Identifier: Apache-2.0
// Days since 1970 to and from dates of the Gregorian calendar.
// H. Hinnant, "chrono-Compatible Low-Level Date Algorithms": https://howardhinnant.github.io/date_algorithms.html

export const SECONDS_PER_DAY: i64 = 86400;

/** Days before the era of 400 years that starts on 1 March 0000, to 1970. */
const EPOCH_DAYS: i64 = 719468;
const DAYS_PER_ERA: i64 = 146097;

export function floorDiv(dividend: i64, divisor: i64): i64 {
  const quotient = dividend / divisor;
  return dividend % divisor < 0 ? quotient - 1 : quotient;
}

/** Any month and day from 0 up are taken, so that whatever a guest writes becomes some date. */
export function daysFromDate(year: i64, month: i64, day: i64): i64 {
  const carried = year + floorDiv(month - 1, 12);
  const monthIndex = month - 1 - floorDiv(month - 1, 12) * 12;
  // Years start in March, which puts the leap day at their end.
  const marchYear = monthIndex < 2 ? carried - 1 : carried;
  const marchMonth = (monthIndex + 10) % 12;
  const era = floorDiv(marchYear, 400);
  const yearOfEra = marchYear - era * 400;
  const dayOfYear = (153 * marchMonth + 2) / 5 + day - 1;
  return era * DAYS_PER_ERA + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - EPOCH_DAYS;
}

function dayOfEra(days: i64): i64 {
  const shifted = days + EPOCH_DAYS;
  return shifted - floorDiv(shifted, DAYS_PER_ERA) * DAYS_PER_ERA;
}

function yearOfEra(day: i64): i64 {
  return (day - day / 1460 + day / 36524 - day / 146096) / 365;
}

function dayOfMarchYear(day: i64): i64 {
  const year = yearOfEra(day);
  return day - (365 * year + year / 4 - year / 100);
}

/** 1 to 12. */
export function monthOf(days: i64): i64 {
  const marchMonth = (5 * dayOfMarchYear(dayOfEra(days)) + 2) / 153;
  return marchMonth < 10 ? marchMonth + 3 : marchMonth - 9;
}

/** 1 to 31. */
export function dateOf(days: i64): i64 {
  const dayOfYear = dayOfMarchYear(dayOfEra(days));
  const marchMonth = (5 * dayOfYear + 2) / 153;
  return dayOfYear - (153 * marchMonth + 2) / 5 + 1;
}

export function yearOf(days: i64): i64 {
  const year = yearOfEra(dayOfEra(days)) + floorDiv(days + EPOCH_DAYS, DAYS_PER_ERA) * 400;
  return monthOf(days) <= 2 ? year + 1 : year;
}

/** 0 is Sunday. */
export function weekdayOf(days: i64): i64 {
  // 1 January 1970 was a Thursday.
  return days + 4 - floorDiv(days + 4, 7) * 7;
}

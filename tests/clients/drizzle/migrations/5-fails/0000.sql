CREATE TABLE "half_done" ("id" integer PRIMARY KEY);--> statement-breakpoint
ALTER TABLE "no_such_table" ADD COLUMN "x" integer;

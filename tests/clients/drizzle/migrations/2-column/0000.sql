ALTER TABLE "users" ADD COLUMN "points" integer DEFAULT 7 NOT NULL;
